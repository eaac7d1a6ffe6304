"""LFM2: short convolutions and attention; widths that follow from others, biases, experts."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, Blocks, configured, rope

M, C = transformers.Lfm2ForCausalLM, transformers.Lfm2Config
E, CE = transformers.Lfm2MoeForCausalLM, transformers.Lfm2MoeConfig
A = gguf.MODEL_ARCH
FULL, CONV = "full_attention", "conv"


def stored(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """Two dimensions for a convolution; experts stacked, by their names of old."""
    out = {}
    for name, array in tensors.items():
        name = name.replace(".expert_bias", ".expert_bias.bias")
        at, experts, part = name.partition(".feed_forward.experts.")
        short = f"{at.removeprefix('model.')}.feed_forward.experts."
        if name.endswith(".conv.conv.weight"):
            array = array[:, 0]
        if part == "gate_up_proj":
            half = array.shape[1] // 2
            out |= {f"{short}w1.weight": array[:, :half], f"{short}w3.weight": array[:, half:]}
        elif experts:
            out[f"{short}w2.weight"] = array
        else:
            out[name] = array
    return out


def packed(name: str, value: np.ndarray, blocks: Blocks) -> np.ndarray:
    """A convolution's rows are too short for blocks."""
    return value if name.endswith(".conv.conv.weight") else blocks(value)


KEYS: dict[str, Any] = {
    "attention.head_count_kv": [0, 2, 0],
    "attention.layer_norm_rms_epsilon": 1e-5,
    "shortconv.l_cache": 3,
    "rope.freq_base": 1e6,
}
EXPERTS: dict[str, Any] = {
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "tie_word_embeddings": True,
    "rope_parameters": rope("default", 1e6),
}
EXPERT_KEYS = {
    "expert_count": 6,
    "expert_used_count": 3,
    "expert_feed_forward_length": 32,
    "expert_gating_func": 2,
}

ARCHS: tuple[Arch, ...] = (
    Arch(
        "lfm2",
        M,
        configured(
            C,
            layer_types=[CONV, FULL, CONV],
            intermediate_size=160,
            block_multiple_of=32,
            rope_parameters=rope("default", 1e6),
        ),
        A.LFM2,
        stored,
        {**KEYS, "feed_forward_length": 128},
        packed=packed,
    ),
    Arch(
        "lfm2-biases",
        M,
        configured(
            C,
            layer_types=[FULL, CONV, CONV, FULL],
            num_hidden_layers=4,
            conv_L_cache=4,
            conv_bias=True,
            block_auto_adjust_ff_dim=False,
            tie_word_embeddings=False,
            norm_eps=1e-3,
            rope_parameters=rope("default", 1e4),
        ),
        A.LFM2,
        stored,
        {
            **KEYS,
            "attention.head_count_kv": [2, 0, 0, 2],
            "attention.layer_norm_rms_epsilon": 1e-3,
            "shortconv.l_cache": 4,
            "rope.freq_base": 1e4,
        },
        packed=packed,
    ),
    Arch(
        "lfm2-indices",
        M,
        configured(
            C,
            num_hidden_layers=4,
            full_attn_idxs=[0, 2],
            block_ffn_dim_multiplier=1.5,
            block_multiple_of=16,
        ),
    ),
    Arch(
        "lfm2-moe",
        E,
        configured(CE, **EXPERTS, layer_types=[CONV, FULL, CONV], num_dense_layers=1),
        A.LFM2MOE,
        stored,
        {**KEYS, **EXPERT_KEYS, "leading_dense_block_count": 1},
        packed=packed,
    ),
    Arch(
        "lfm2-moe-plain",
        E,
        configured(
            CE,
            **EXPERTS | {"num_experts_per_tok": 1, "tie_word_embeddings": False},
            layer_types=[FULL, CONV, FULL],
            num_dense_layers=0,
            use_expert_bias=False,
            norm_topk_prob=False,
            routed_scaling_factor=1.5,
            conv_bias=True,
        ),
    ),
)
