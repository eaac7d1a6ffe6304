"""PEFT's LoRA adapters: `adapter_config.json` and `adapter_model.safetensors`.

Reference: huggingface.co/docs/peft (LoraConfig). What changes results and is not supported is
refused by name; `fan_in_fan_out` says how a base stores its weights, and changes neither factor.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rbee_worker.adapters.adapter import Adapter, LowRank
from rbee_worker.adapters.names import SAME_MAPS, modules_of
from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.reading import inside, read_json
from rbee_worker.checkpoint.safetensors import SafetensorsFile
from rbee_worker.errors import AdapterError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_A, _B = ".lora_A.weight", ".lora_B.weight"
_LONGEST = 256  # characters of a pattern
_REPEATED_GROUP = re.compile(r"\)[*+?{]|\\[1-9]|\(\?")  # what can make a short pattern run for ever
_MOST_REPEATS = 3

# Settings that say how an adapter was trained or saved, and change nothing of what it computes.
# Which maps it changes is known from its tensors.
_INERT = frozenset(
    (
        *("auto_mapping", "base_model_name_or_path", "revision", "task_type", "inference_mode"),
        *("peft_version", "lora_dropout", "fan_in_fan_out", "megatron_core", "layers_pattern"),
        *("target_modules", "exclude_modules", "layers_to_transform", "qalora_group_size"),
        *("runtime_config", "eva_config", "ensure_weight_tying", "loftq_config"),
        *("r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "init_lora_weights"),
    )
)
_NOTHING: tuple[Any, ...] = (None, False, [], {}, "", "none")  # values of a setting that is off
_REFUSED = {  # settings -> what they are
    "use_dora": "DoRA",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "BD-LoRA",
    "bias": "biases of its own (bias)",
    "lora_bias": "biases of its factors (lora_bias)",
    "modules_to_save": "whole modules of its own (modules_to_save)",
    "trainable_token_indices": "token embeddings of its own (trainable_token_indices)",
    "target_parameters": "factors for experts (target_parameters)",
    "layer_replication": "repeated layers (layer_replication)",
    "alora_invocation_tokens": "activated LoRA (alora_invocation_tokens)",
    "megatron_config": "Megatron's parallel layers",
    "corda_config": "CorDA, which changes the base",
    "arrow_config": "Arrow's routing among adapters",
}
_PLAIN = "train a LoRA without it, or merge the adapter into its base (peft: merge_and_unload)"
# Ways to begin training that leave the base as it is; all others subtract something from it.
_BEGUN = (None, True, False, "gaussian", "eva", "orthogonal")


def opened(path: Path, ckpt: Checkpoint, scale: float) -> Adapter:
    """The adapter in directory `path`. Raises AdapterError, CheckpointError, UnsupportedModel."""
    config = read_json(inside(path, path / CONFIG))
    _refuse_variants(config, path)
    if ckpt.gguf is not None and ckpt.arch not in SAME_MAPS:
        raise AdapterError(
            f"{path}: a PEFT adapter, but the base is a GGUF file of {ckpt.arch}, whose maps "
            "differ from transformers'.",
            fix="use the base's safetensors, or convert the adapter (convert_lora_to_gguf.py)",
        )
    if not (path / WEIGHTS).is_file():
        raise AdapterError(
            f"{path}: has no {WEIGHTS}.",
            fix="fetch it; an adapter saved as adapter_model.bin has to be saved again by PEFT",
        )
    file = SafetensorsFile.open(inside(path, path / WEIGHTS))
    for name in file.tensors:
        _check_tensor(name, path)
    parts = [
        _part(file, name, config, ckpt, scale, path) for name in file.tensors if name.endswith(_A)
    ]
    if not parts:
        raise AdapterError(f"{path / WEIGHTS}: has no factors.", fix="fetch the adapter again")
    return Adapter(path, str(config.get("base_model_name_or_path") or "")[:200], tuple(parts))


def _refuse_variants(config: Mapping[str, Any], path: Path) -> None:
    """Raise AdapterError for a kind of adapter, or a setting, that is not supported."""
    kind = config.get("peft_type")
    if kind != "LORA":
        raise AdapterError(f"{path}: peft_type is {str(kind)[:40]!r}, not LORA.", fix=_PLAIN)
    for key, value in config.items():
        if key in ("peft_type", *_INERT) or value in _NOTHING:
            continue
        what = _REFUSED.get(key, f"the setting {key[:40]!r}")
        raise AdapterError(f"{path}: an adapter with {what}, which is not supported.", fix=_PLAIN)
    begun = config.get("init_lora_weights", True)
    if begun not in _BEGUN:
        raise AdapterError(
            f"{path}: trained with init_lora_weights {str(begun)[:40]!r}, which changes the base.",
            fix="save it with path_initial_model_for_weight_conversion, as PEFT's guide says",
        )


def _check_tensor(name: str, path: Path) -> None:
    """Raise AdapterError for a tensor that is no factor of a linear map."""
    if name.startswith(_PREFIX) and name.endswith((_A, _B)):
        return
    if ".lora_magnitude_vector" in name:
        what = "is DoRA's, which is not supported"
    elif "lora_embedding_" in name:
        what = "changes the embedding, which is not supported"
    elif name.endswith((".embed_tokens.weight", ".lm_head.weight", ".wte.weight")):
        what = "is a vocabulary of its own, which is not supported"
    elif name.endswith(".bias"):
        what = "is a bias, which is not supported"
    else:
        what = "is no factor of a LoRA"
    raise AdapterError(f"{path}: tensor {name[:120]!r} {what}.", fix=_PLAIN)


def _part(
    file: SafetensorsFile,
    name: str,
    config: Mapping[str, Any],
    ckpt: Checkpoint,
    scale: float,
    path: Path,
) -> LowRank:
    """The factors whose A is tensor `name`."""
    module = name.removeprefix(_PREFIX).removesuffix(_A)
    other = f"{_PREFIX}{module}{_B}"
    if other not in file.tensors:
        raise AdapterError(f"{path}: tensor {other[:120]!r} is missing.", fix="fetch it again")
    a, b = file.read(name), file.read(other)
    rank = _number(config, "rank_pattern", "r", module, path)
    alpha = _number(config, "alpha_pattern", "lora_alpha", module, path)
    if len(a.shape) != 2 or a.shape[0] != rank:
        raise AdapterError(
            f"{path}: tensor {name[:120]!r} has shape {list(a.shape)}, but the rank is {rank:g}.",
            fix=f"{CONFIG} and the weights belong to different adapters; fetch both again",
        )
    _check_target(config.get("target_modules"), module, name, path)
    by = math.sqrt(rank) if config.get("use_rslora") else rank
    modules = modules_of(module, ckpt.arch, ckpt.config.get("num_hidden_layers"))
    return LowRank(modules, a, b, scale * alpha / by, name)


def _number(
    config: Mapping[str, Any], patterns: str, default: str, module: str, path: Path
) -> float:
    """A module's number: that of the first pattern that fits its name, else the default."""
    found = config.get(default)
    given = config.get(patterns) or {}
    for pattern, value in given.items() if isinstance(given, dict) else ():
        if _fits(pattern, module, path):
            found = value
            break
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise AdapterError(f"{path}: {default} is {str(found)[:40]!r}, no number.", fix=_AGAIN)
    if default == "r" and found < 1:
        raise AdapterError(f"{path}: the rank is {found:g}.", fix=_AGAIN)
    return float(found)


def _fits(pattern: str, module: str, path: Path) -> bool:
    """PEFT's rule: the pattern is the end of a name, from a dot on, or all of it. An adapter is not
    trusted, so its patterns may only have what is matched in a short time."""
    repeats = sum(pattern.count(sign) for sign in "*+{")
    if len(pattern) > _LONGEST or repeats > _MOST_REPEATS or _REPEATED_GROUP.search(pattern):
        raise AdapterError(
            f"{path}: the pattern {pattern[:80]!r} may take too long to match.",
            fix=f"write it in {CONFIG} with fewer repetitions, and none of a group",
        )
    try:
        return re.match(rf"(.*\.)?({pattern})$", module) is not None
    except re.error:
        raise AdapterError(f"{path}: {pattern[:80]!r} is no pattern.", fix=_AGAIN) from None


def _check_target(targets: Any, module: str, name: str, path: Path) -> None:
    """PEFT leaves out the tensors of modules that a list of targets does not have."""
    if not isinstance(targets, list) or "all-linear" in targets:
        return
    if not any(module == one or module.endswith(f".{one}") for one in targets):
        raise AdapterError(
            f"{path}: tensor {name[:120]!r} is of no module in target_modules.",
            fix=f"{CONFIG} and the weights belong to different adapters; fetch both again",
        )


_AGAIN = f"fetch {CONFIG} again"
