"""A GGUF file in HF vocabulary: applies the tables of `names` to one file."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from rbee_worker.checkpoint.dense import gguf_dense
from rbee_worker.checkpoint.foreign import refuse_gguf
from rbee_worker.checkpoint.formats import Packed, TensorInfo
from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.checkpoint.hf_config import canonical
from rbee_worker.checkpoint.layered import by_layers
from rbee_worker.checkpoint.names import (
    GENERATION_KEYS,
    GGUF_ARCHITECTURES,
    INERT_KEYS,
    Architecture,
    Key,
    Row,
)
from rbee_worker.checkpoint.ops import OPS
from rbee_worker.checkpoint.sentence import UNSAID, Sentence
from rbee_worker.checkpoint.unsupported import unsupported
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.model_info import Pooling
from rbee_worker.types import PoolingRule

MAX_COUNT = 1 << 31
NO_ID = 0xFFFF_FFFF  # -1 in an unsigned key: there is no such token
POOLING: Mapping[int, PoolingRule] = {1: "mean", 2: "cls", 3: "last"}  # llama.cpp's numbers
_GATING = {1: "softmax", 2: "sigmoid"}  # llama.cpp's numbers
_POOLING_KEY = "pooling_type"
_RANK = 4
_LISTED = ("each", "hybrid")  # kinds of keys that may have a list with one value per layer
_CONVERT = "convert the model again with a current GGUF converter"


def architecture_of(file: GgufFile) -> Architecture:
    """The table row for a file's architecture. Raises UnsupportedModel, or CheckpointError if the
    file names no architecture."""
    refuse_gguf(file.metadata, str(file.path))
    found = file.metadata.get("general.architecture")
    if not isinstance(found, str):
        raise CheckpointError(f"{file.path}: has no general.architecture.", fix=_CONVERT)
    if found not in GGUF_ARCHITECTURES:
        nearest = _with_most_tensors(file)
        raise unsupported(found, GGUF_ARCHITECTURES, str(file.path), nearest=nearest)
    row = GGUF_ARCHITECTURES[found]
    others = (other for key, other in row.instead if not file.metadata.get(f"{found}.{key}"))
    return next(others, row)


def _with_most_tensors(file: GgufFile) -> str:
    """The architecture whose table lists the most of the file's tensors, if it lists nearly all."""
    patterns = {_split(name)[0] for name in file.tensors}
    known = {
        name: len(patterns & {row.gguf for row in arch.tensors})
        for name, arch in GGUF_ARCHITECTURES.items()
    }
    best = max(known, key=lambda name: known[name])
    return best if patterns and known[best] >= 0.9 * len(patterns) else ""


def unused_keys(file: GgufFile, arch: Architecture) -> list[str]:
    """The architecture's metadata keys in the file that no table row reads."""
    prefix = str(file.metadata["general.architecture"]) + "."
    read = {prefix + key.gguf for key in arch.keys} | {
        prefix + key for key in (*INERT_KEYS, *arch.inert)
    }
    read |= {prefix + key for key, _ in arch.variants} | {prefix + _POOLING_KEY}
    return sorted(k for k in file.metadata if k.startswith(prefix) and k not in read)


def read_config(file: GgufFile, arch: Architecture) -> tuple[str, dict[str, Any]]:
    """(model_type, the config.json that Hugging Face would write, in canonical form)."""
    prefix = str(file.metadata["general.architecture"]) + "."
    config = dict(arch.constants) | read_keys(file, arch.keys, prefix)
    model_type = arch.model_type
    for key, variant in arch.variants:
        value = file.metadata.get(prefix + key, 0)
        if isinstance(value, int) and value > 0:
            model_type = variant
            break
    for key, value, variant in arch.by_value:
        if config.get(key) == value:
            model_type = variant
    for name, variant in arch.by_tensor:
        if name in file.tensors:
            model_type = variant
    config["model_type"] = model_type
    there = {*file.tensors, *(_split(name)[0] for name in file.tensors)}
    for key, names in arch.present.items():
        _put(config, key, any(name in there for name in names))
    config |= {key: name not in file.tensors for key, name in arch.absent.items()}
    for key, (first, second) in arch.alone.items():
        layers = [n.removesuffix(first) for n in file.tensors if n.endswith(f".{first}")]
        config[key] = any(f"{layer}{second}" not in file.tensors for layer in layers)
    by_layers(config, str(file.path))
    _derive_sizes(file, config, arch.rows)
    config = config | dict(arch.by_layers.get(config["num_hidden_layers"], {}))
    _derive_rope(file, config)
    config = {key: value for key, value in config.items() if key not in arch.unread}
    return model_type, canonical(config, str(file.path))


def read_keys(file: GgufFile, keys: Iterable[Key], prefix: str = "") -> dict[str, Any]:
    """The checked values of those table rows whose key the file has, under their HF names."""
    out: dict[str, Any] = {}
    for key in keys:
        name = key.gguf if key.whole else prefix + key.gguf
        if name in file.metadata:
            value = _checked(file, name, key.kind)
        elif key.required:
            raise CheckpointError(f"{file.path}: metadata key {name} is missing.", fix=_CONVERT)
        elif key.default is not None:
            value = key.default
        else:
            continue
        _put(out, key.hf, value)
    return out


def read_sampling(file: GgufFile) -> dict[str, Any]:
    """The sampling defaults in a file. A default that generation_config.json has a name for gets
    that name; any other keeps its own, so that it is reported."""
    known = {key.gguf for key in GENERATION_KEYS}
    others = (k for k in file.metadata if k.startswith("general.sampling.") and k not in known)
    return read_keys(file, GENERATION_KEYS) | {key: file.metadata[key] for key in others}


def read_sentence(file: GgufFile) -> Sentence:
    """How a text's rows become one vector, if the file says so. Files have no key for whether it is
    normalized: llama.cpp does that. Raises UnsupportedModel for a way that is not known."""
    name = f"{file.metadata['general.architecture']}.{_POOLING_KEY}"
    number = file.metadata.get(name)
    if number is None or number in (0, _RANK):  # not pooled; a classifier's scores
        return UNSAID
    how = POOLING.get(number) if type(number) is int else None
    if how is None:
        raise UnsupportedModel(
            f"{file.path}: {name} is {str(number)[:20]}, an unknown way of pooling.",
            fix="use a file that pools by mean, cls or last.",
        )
    dense = gguf_dense(file)
    sizes = tuple(one.outputs for one in dense)
    pooling = Pooling(how=how, normalize=True, origin=f"gguf:{name}", dense=sizes)
    return Sentence(pooling=pooling, dense=dense)


def _put(config: dict[str, Any], key: str, value: Any) -> None:
    """Set a config key; dots in it lead into nested objects."""
    *parents, leaf = key.split(".")
    for parent in parents:
        config = config.setdefault(parent, {})
    config[leaf] = value


def _checked(file: GgufFile, name: str, kind: str) -> Any:
    value = file.metadata[name]
    if kind == "windows" and isinstance(value, list) and all(v in (False, True) for v in value):
        return ["sliding_attention" if v else "full_attention" for v in value]
    if kind == "windows" and type(value) is int and 0 < value < MAX_COUNT:
        return value  # every nth layer has no window; `by_layers` makes the list
    if kind == "labels" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return value
    if kind == "pooling" and type(value) is int and value in POOLING:
        return POOLING[value]
    if kind == "gating" and type(value) is int and value in _GATING:
        return _GATING[value]
    if kind == "recurrent" and isinstance(value, list) and all(v in (False, True) for v in value):
        return ["linear_attention" if v else "full_attention" for v in value]
    if kind == "rotary" and isinstance(value, bool):
        return "rope" if value else "nope"
    if kind in _LISTED and isinstance(value, list) and any(v != value[0] for v in value):
        if all(type(v) is int and 0 <= v < MAX_COUNT for v in value):
            return value
        kind = "wrong"  # refused below
    elif isinstance(value, list):
        if not value or any(v != value[0] for v in value):
            raise UnsupportedModel(
                f"{file.path}: {name} differs from layer to layer.", fix="use another model"
            )
        value = value[0]
    if kind == "id" and value == NO_ID:
        return -1
    if kind == "twice" and type(value) is int and 0 <= value < MAX_COUNT and value % 2 == 0:
        return value // 2
    good = {
        "count": type(value) is int and 0 <= value < MAX_COUNT,
        **dict.fromkeys(_LISTED, type(value) is int and 0 <= value < MAX_COUNT),
        "id": type(value) is int and -1 <= value < MAX_COUNT,
        "number": type(value) in (int, float) and math.isfinite(value),
        "text": isinstance(value, str),
        "flag": isinstance(value, bool),
    }.get(kind, False)
    if not good:
        raise CheckpointError(f"{file.path}: {name} is {str(value)[:40]!r}.", fix=_CONVERT)
    return _decimal(value) if type(value) is float else value


def _decimal(value: float) -> float:
    """The number as it was written: 1e-05 for the float32 9.999999747378752e-06."""
    short = np.float32(value)
    return float(str(short)) if float(short) == value else value


def _derive_sizes(file: GgufFile, config: dict[str, Any], rows: Mapping[str, str]) -> None:
    """Fill in the sizes that HF always writes and a GGUF file may leave out."""
    for key, name in {"vocab_size": "token_embd.weight", **rows}.items():
        table = file.tensors.get(name)
        if table is not None and table.shape:
            config[key] = table.shape[0]  # includes padding rows, as in HF
    tokens = file.metadata.array_length("tokenizer.ggml.tokens")
    if "vocab_size" not in config and tokens is not None:
        config["vocab_size"] = tokens
    heads = config.get("num_attention_heads")
    if heads is None:
        return
    if not heads:
        raise CheckpointError(f"{file.path}: says 0 attention heads.", fix=_CONVERT)
    config.setdefault("num_key_value_heads", heads)
    config.setdefault("head_dim", config["hidden_size"] // heads)
    latent = "kv_lora_rank" in config  # with latent attention, key and value widths always differ
    if not latent and config.get("v_head_dim", config["head_dim"]) == config["head_dim"]:
        config.pop("v_head_dim", None)
    if not config.get("sliding_window", 1):
        del config["sliding_window"]


def _derive_rope(file: GgufFile, config: dict[str, Any]) -> None:
    """Turn the rotary width into HF's fraction of the head, and the scaling into HF's keys."""
    rotary = config.pop("rotary_dim", None)
    if config.get("head_dim") and "num_attention_heads" in config:
        # Without a rotary width, whole heads rotate.
        config["partial_rotary_factor"] = (rotary or config["head_dim"]) / config["head_dim"]
    scaling = config.get("rope_scaling")
    if scaling is None:
        return
    scaling.setdefault("rope_type", "linear" if scaling.get("factor") else "none")
    if by := scaling.pop("yarn_log_multiplier", None):  # 0.1 times HF's value
        scaling["mscale"] = scaling["mscale_all_dim"] = _decimal(np.float32(by * 10).item())
    attn = scaling.pop("attn_factor", 1.0)
    if scaling["rope_type"] == "yarn" and attn != 1.0:
        # GGUF's factor multiplies YaRN's own magnitude, HF's factor replaces it.
        own = 0.1 * math.log(max(scaling.get("factor", 1.0), 1.0)) + 1.0
        scaling["attention_factor"] = attn * own
    if scaling["rope_type"] == "linear" and scaling.get("factor", 1.0) == 1.0:
        config["rope_scaling"] = None


class GgufSource:
    """The tensors of a GGUF file under their HF names, with rows in HF order. but: the names of
    tensors that are not the model's own.

    A tensor without a table row is listed under its own name with "gguf:" before it, so that it is
    never overlooked.
    """

    def __init__(
        self,
        file: GgufFile,
        rows: Iterable[Row],
        config: Mapping[str, Any],
        but: Collection[str] = (),
    ) -> None:
        self._file = file
        self._config = config
        self._where: dict[str, tuple[str, str | None]] = {}
        patterns = {row.gguf: row for row in rows}
        for name in file.tensors:
            if name in but:
                continue
            pattern, numbers = _split(name)
            row = patterns.get(pattern)
            hf = row.hf.format(*numbers) if row else f"gguf:{name}"
            self._where[hf] = (name, row.op if row else None)

    def names(self) -> list[str]:
        return list(self._where)

    def origin(self, name: str) -> str:
        """The tensor's name in the file."""
        return self._where[name][0]

    def info(self, name: str) -> TensorInfo:
        origin, op = self._where[name]
        info = self._file.info(origin)
        shape = OPS[op].shape if op is not None else None
        return info if shape is None else replace(info, shape=shape(info.shape))

    def read(self, name: str) -> Packed:
        origin, op = self._where[name]
        packed = self._file.read(origin)
        if op is None:
            return packed
        try:
            return OPS[op](packed, self._config)
        except ValueError as error:
            raise CheckpointError(f"{self._file.path}: {origin}: {error}.", fix=_CONVERT) from None

    def release(self) -> None:
        """See `GgufFile.release`."""
        self._file.release()


def _split(name: str) -> tuple[str, tuple[str, ...]]:
    """ "blk.12.ffn_up.3.weight" -> ("blk.{}.ffn_up.{}.weight", ("12", "3"))."""
    layer = re.match(r"((?:[a-z]+\.)?blk)\.([0-9]{1,6})\.", name)
    if layer is None:
        return name, ()
    before, rest = f"{layer[1]}.{{}}.", name[layer.end() :]
    expert = re.match(r"([a-z_]+)\.([0-9]{1,6})\.", rest)
    if expert is None:
        return f"{before}{rest}", (layer[2],)
    return f"{before}{expert[1]}.{{}}.{rest[expert.end() :]}", (layer[2], expert[2])
