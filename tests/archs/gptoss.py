"""GPT-OSS: experts in floats and, as published, in MXFP4."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import torch
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, Blocks, configured, rope

CONFIG = transformers.GptOssConfig
FOUR_BITS = gguf.GGMLQuantizationType.MXFP4


class Plain(transformers.GptOssForCausalLM):
    """With biases of the experts, which HF begins as zeros; large values meet the clamp."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if ".experts." in name:
                    p.copy_(torch.randn_like(p) * 0.1)


class OnGrid(Plain):
    """Experts that MXFP4 holds without a loss."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        with torch.no_grad():
            for name, p in self.named_parameters():
                if ".experts." in name and not name.endswith("bias"):
                    rows = p.swapaxes(1, 2).contiguous().numpy()
                    blocks = gguf.quants.quantize(rows, FOUR_BITS)
                    near = torch.from_numpy(gguf.quants.dequantize(blocks, FOUR_BITS))
                    p.copy_(near.swapaxes(1, 2))


def published(config: dict[str, Any], tensors: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Experts as blocks of 32 along the inputs, two neighbours a byte, and their exponents."""
    out = {}
    for name, array in tensors.items():
        if ".experts." not in name or name.endswith("bias"):
            out[name] = array
            continue
        rows = np.ascontiguousarray(array.swapaxes(1, 2))
        packed = gguf.quants.quantize(rows, FOUR_BITS).reshape(*rows.shape[:2], -1, 17)
        halves = np.concatenate([packed[..., 1:] & 15, packed[..., 1:] >> 4], -1)
        out[f"{name}_blocks"] = halves[..., 0::2] | halves[..., 1::2] << 4
        out[f"{name}_scales"] = np.ascontiguousarray(packed[..., 0])
    how = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]}
    theirs = {"quantization_config": how, "experts_per_token": 2, "initial_context_length": 32}
    return config | theirs, out


def apart(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """llama.cpp's converter: gate and up apart, outputs as rows."""
    out = {}
    for name, array in tensors.items():
        stem = name.removesuffix("_bias")
        kind = "bias" if name.endswith("_bias") else "weight"
        if ".experts." in name and kind == "weight":
            array = array.swapaxes(1, 2)
        if stem.endswith("experts.gate_up_proj"):
            out[stem.replace("gate_up", "gate") + f".{kind}"] = array[:, 0::2]
            out[stem.replace("gate_up", "up") + f".{kind}"] = array[:, 1::2]
        elif stem.endswith("experts.down_proj"):
            out[f"{stem}.{kind}"] = array
        elif name.endswith("sinks"):
            out[f"{name}.weight"] = array
        else:
            out[name] = array
    return out


def along_inputs(name: str, value: np.ndarray, blocks: Blocks) -> np.ndarray:
    """What is left of a tensor after packing: the rows of experts are their outputs."""
    if ".experts." not in name:
        return blocks(value)
    left = blocks(np.ascontiguousarray(value.swapaxes(1, 2)))
    return np.ascontiguousarray(left.swapaxes(1, 2))


_KEYS = {
    "attention.sliding_window": 24,
    "expert_used_count": 2,
    "expert_feed_forward_length": 96,
    "attention.key_length": 32,
    "attention.value_length": 32,
    "rope.dimension_count": 32,
}
_SHAPE = {"head_dim": 32, "sliding_window": 24, "num_experts_per_tok": 2}

ARCHS: tuple[Arch, ...] = (
    Arch(
        "gpt-oss",
        Plain,
        configured(
            CONFIG, **_SHAPE, num_local_experts=6, rope_parameters=rope("default", 150000.0)
        ),
        gguf.MODEL_ARCH.GPT_OSS,
        apart,
        {**_KEYS, "expert_count": 6, "rope.freq_base": 150000.0},
        packed=along_inputs,
    ),
    Arch(
        "gpt-oss-yarn-mxfp4",
        OnGrid,
        configured(
            CONFIG,
            **_SHAPE,
            num_local_experts=4,
            rope_parameters=rope(
                "yarn",
                factor=4.0,
                original_max_position_embeddings=32,
                beta_fast=32.0,
                beta_slow=1.0,
                truncate=False,
            ),
        ),
        gguf.MODEL_ARCH.GPT_OSS,
        apart,
        {
            **_KEYS,
            "expert_count": 4,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 32,
        },
        disk=published,
        packed=along_inputs,
    ),
)
