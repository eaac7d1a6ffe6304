"""llama.cpp's GGUF adapters: factors `<tensor>.lora_a` and `.lora_b` of the base's own tensors.

Reference: convert_lora_to_gguf.py and llama-adapter.cpp of llama.cpp. The scale is alpha over the
factors' rank, or 1 where alpha is 0, as there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rbee_worker.adapters.adapter import Adapter, LowRank
from rbee_worker.adapters.names import SAME_MAPS
from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.gguf import GgufFile
from rbee_worker.checkpoint.mapped import GgufSource
from rbee_worker.checkpoint.names import GGUF_ARCHITECTURES, Architecture
from rbee_worker.errors import AdapterError

_A, _B = ".lora_a", ".lora_b"
_CONVERT = "convert it again with llama.cpp's convert_lora_to_gguf.py"


def opened(path: Path, ckpt: Checkpoint, scale: float) -> Adapter:
    """The adapter in a GGUF file. Raises AdapterError, CheckpointError."""
    file = GgufFile.open(path)
    row, alpha = _checked(file, ckpt)
    for name in file.tensors:
        if not name.endswith((_A, _B)):
            raise AdapterError(
                f"{path}: tensor {name[:120]!r} is no factor of a LoRA.", fix=_CONVERT
            )
        other = name[: -len(_A)] + (_B if name.endswith(_A) else _A)
        if other not in file.tensors:
            raise AdapterError(f"{path}: tensor {other[:120]!r} is missing.", fix=_CONVERT)
    if not file.tensors:
        raise AdapterError(f"{path}: has no factors.", fix=_CONVERT)
    ends = {n.removesuffix(_B): t for n, t in file.tensors.items() if n.endswith(_B)}
    source = GgufSource(replace(file, tensors=ends), row.tensors, _heads(ckpt.config))
    parts = [_part(file, source, name, alpha, scale) for name in source.names()]
    return Adapter(path, str(file.metadata.get("general.base_model.0.name") or "")[:200], (*parts,))


def _checked(file: GgufFile, ckpt: Checkpoint) -> tuple[Architecture, float]:
    """The architecture's row and alpha. Raises AdapterError for what is not a LoRA of this base."""
    data, path = file.metadata, file.path
    if data.get("general.type") != "adapter":
        raise AdapterError(f"{path}: a model, not an adapter.", fix="give it as the model itself")
    if data.get("adapter.type") != "lora":
        kind = str(data.get("adapter.type"))[:40]
        raise AdapterError(f"{path}: adapter.type is {kind!r}, not 'lora'.", fix="use a LoRA")
    if "adapter.alora.invocation_tokens" in data:
        raise AdapterError(f"{path}: an activated LoRA, which is not supported.", fix="use a LoRA")
    name = str(data.get("general.architecture"))[:40]
    row = GGUF_ARCHITECTURES.get(name)
    own = {} if ckpt.gguf is None else ckpt.gguf.metadata
    same = row is not None and (
        own.get("general.architecture") == name if own else ckpt.arch in row.model_types
    )
    if row is None or not same:
        raise AdapterError(f"{path}: an adapter of {name}, but the base is {ckpt.arch}.")
    if not own and ckpt.arch not in SAME_MAPS:
        raise AdapterError(
            f"{path}: a GGUF adapter, but the base is not a GGUF file, and the maps of {ckpt.arch} "
            "differ between the two.",
            fix="use the base's GGUF file, or the adapter as PEFT saved it",
        )
    alpha = data.get("adapter.lora.alpha")
    if not isinstance(alpha, int | float) or not math.isfinite(alpha):
        raise AdapterError(f"{path}: adapter.lora.alpha is {str(alpha)[:40]!r}.", fix=_CONVERT)
    return row, float(alpha)


def _heads(config: Mapping[str, Any]) -> dict[str, Any]:
    """The counts that row operations read."""
    heads = config.get("num_attention_heads")
    kv = config.get("num_key_value_heads")
    return {"num_attention_heads": heads, "num_key_value_heads": heads if kv is None else kv}


def _part(file: GgufFile, source: GgufSource, name: str, alpha: float, scale: float) -> LowRank:
    """The factors for the base's tensor `name`."""
    tensor = source.origin(name) + _A
    a, b = file.read(tensor), source.read(name)
    if len(a.shape) != 2 or len(b.shape) != 2:
        raise AdapterError(
            f"{file.path}: tensor {tensor[:120]!r} belongs to experts, which take no adapters here."
        )
    rank = b.shape[1]
    module = name.removesuffix(".weight")
    return LowRank((module,), a, b, scale * (alpha / rank if alpha else 1.0), tensor)
