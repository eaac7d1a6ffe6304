"""A checkpoint's decoded tensors in the form of an HF model: names, fused parts, experts.

Our tables already give HF's published names. What remains is how a file groups rows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.checkpoint.formats import INTEGERS, TensorSource
from rbee_worker.ops.reference.dequant import dequantize
from rbee_worker.verify.regrouped import REGROUPED, Tensors

Shapes = Mapping[str, tuple[int, ...]]

# A fused matrix -> the matrices whose rows it has, in order.
_FUSED = (
    ("qkv_proj", ("q_proj", "k_proj", "v_proj")),
    ("gate_up_proj", ("gate_proj", "up_proj")),
    ("input_linear", ("gate_proj", "up_proj")),
)
_ONLY_HERE = ("model.rope_freqs", "model.rope_factors_long", "model.rope_factors_short")
_MAGNITUDES = ("attention_factor", "short_mscale", "long_mscale")
_LONG = "model.rope_factors_long"
_SHORT = "model.rope_factors_short"


def state_for(
    source: TensorSource, wanted: Shapes, config: Mapping[str, Any], arch: str
) -> Tensors:
    """The float32 tensors that HF's loader accepts for the `wanted` names and shapes."""
    found = {
        name: dequantize(source.read(name)).reshape(source.info(name).shape)
        for name in source.names()
        if name not in _ONLY_HERE
        and not name.endswith("inv_freq")
        and source.info(name).format not in INTEGERS
    }
    found = REGROUPED.get(arch, _as_they_are)(found, config)
    found = _experts(found, wanted)
    for whole, parts in _FUSED:
        found = _fused(found, wanted, whole, parts)
        found = _cut(found, wanted, whole, parts)
    return _each_head(found, wanted)


def rope_divisors(source: TensorSource) -> Tensor | None:
    """A GGUF file's divisors of the rotary frequencies (Llama 3.1 and later)."""
    name = "model.rope_freqs"
    return dequantize(source.read(name)) if name in source.names() else None


def long_rope_of(ckpt: Checkpoint) -> dict[str, Any] | None:
    """Phi's LongRoPE as a GGUF file stores it: two tensors and a magnitude."""
    if _LONG not in ckpt.source.names():
        return None
    c = ckpt.config
    long, short = (dequantize(ckpt.source.read(n)).tolist() for n in (_LONG, _SHORT))
    return {
        "rope_type": "longrope",
        "long_factor": long,
        "short_factor": short,
        "original_max_position_embeddings": c.get("original_max_position_embeddings"),
        # One magnitude, under the names that Phi 3 and Phi-MoE have for it.
        **dict.fromkeys(_MAGNITUDES if c.get("rope_magnitude") else (), c.get("rope_magnitude")),
    }


def _fused(found: Tensors, wanted: Shapes, whole: str, parts: tuple[str, ...]) -> Tensors:
    """Join parts where HF has one tensor with all their rows."""
    out = dict(found)
    for name in wanted:
        at, dot, kind = name.partition(f".{whole}")
        kind = kind or ".weight"  # HF's stacks of experts are not modules
        pieces = [f"{at}.{p}{kind}" for p in parts]
        if dot and name not in out and all(p in out for p in pieces):
            rows = [out.pop(p) for p in pieces]
            out[name] = torch.cat(rows, dim=-2 if rows[0].ndim > 1 else 0)
    return out


def _cut(found: Tensors, wanted: Shapes, whole: str, parts: tuple[str, ...]) -> Tensors:
    """Cut one tensor into the parts that HF has."""
    out = dict(found)
    for name in found:
        at, dot, kind = name.partition(f".{whole}.")
        pieces = [f"{at}.{p}.{kind}" for p in parts]
        if dot and name not in wanted and all(p in wanted for p in pieces):
            rows = torch.split(out.pop(name), [wanted[p][0] for p in pieces])
            out |= dict(zip(pieces, rows, strict=True))
    return out


def _experts(found: Tensors, wanted: Shapes) -> Tensors:
    """Stacks of experts if HF has stacks; else one tensor per expert, as in published files, which
    HF's loader knows."""
    out: Tensors = {}
    for name, tensor in found.items():
        match = re.fullmatch(r"(.*\.experts)\.(\w+)\.weight", name)
        if match is None or tensor.ndim != 3:
            out[name] = tensor
        elif f"{match[1]}.{match[2]}" in wanted:
            out[f"{match[1]}.{match[2]}"] = tensor
        elif f"{match[1]}.gate_up_proj" in wanted:
            out[name] = tensor  # `_fused` joins it with its other half
        else:
            for number, one in enumerate(tensor):
                out[f"{match[1]}.{number}.{match[2]}.weight"] = one
    return out


def _each_head(found: Tensors, wanted: Shapes) -> Tensors:
    """Split norms of all heads in one tensor, where HF has one module per head."""
    out: Tensors = {}
    for name, tensor in found.items():
        at = name.removesuffix(".weight")
        if tensor.ndim == 2 and f"{at}.norms.0.weight" in wanted:
            out |= {f"{at}.norms.{h}.weight": row for h, row in enumerate(tensor)}
        else:
            out[name] = tensor
    return out


def _as_they_are(found: Tensors, config: Mapping[str, Any]) -> Tensors:
    return found
