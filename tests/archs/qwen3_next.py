"""Qwen3-Next: gated delta rules in groups of heads, gated attention, mixtures, plain blocks."""

from __future__ import annotations

import re
from typing import Any

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, Blocks, configured, rope
from tests.archs.hybrid import FULL, LINEAR
from tests.archs.mixture import halves

M, C = transformers.Qwen3NextForCausalLM, transformers.Qwen3NextConfig
A = gguf.MODEL_ARCH


def stored(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """What llama.cpp's converter does: rates, offsets from 1 as norms, q, k and v of all groups one
    after another."""
    out = {}
    for name, array in halves(tensors, config).items():
        layer = name.split(".")[2] if name.startswith("model.layers.") else ""
        if name.endswith(".A_log"):
            out[f"blk.{layer}.ssm_a"] = -np.exp(array)
        elif name.endswith(".dt_bias"):
            out[name.replace(".dt_bias", ".dt_proj.bias")] = array
        elif name.endswith("conv1d.weight"):
            out[name] = array[:, 0]
        elif name.endswith("norm.weight") and not name.endswith("linear_attn.norm.weight"):
            out[name] = array + np.float32(1)
        elif name.endswith("in_proj_qkvz.weight"):
            q, k, v, z = ungrouped(array, config)
            out[name.replace("qkvz", "qkv")] = np.concatenate([q, k, v])
            out[name.replace("qkvz", "z")] = z
        else:
            out[name] = array
    return out


def ungrouped(rows: np.ndarray, c: PretrainedConfig) -> list[np.ndarray]:
    """The rows of q, k, v and z of all groups."""
    each = c.linear_num_value_heads // c.linear_num_key_heads * c.linear_value_head_dim
    sizes = (c.linear_key_head_dim, c.linear_key_head_dim, each, each)
    groups = rows.reshape(c.linear_num_key_heads, sum(sizes), -1)
    parts = np.split(groups, np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(-1, rows.shape[-1]) for part in parts]


def packed(name: str, value: np.ndarray, blocks: Blocks) -> np.ndarray:
    """Rates and taps are never packed."""
    return value if re.search("A_log|conv1d", name) else blocks(value)


SMALL: dict[str, Any] = {
    "head_dim": 16,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "linear_key_head_dim": 16,
    "linear_value_head_dim": 16,
    "num_experts": 6,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 64,
    "num_hidden_layers": 4,
}

ARCHS: tuple[Arch, ...] = (
    Arch(
        "qwen3-next",
        M,
        configured(C, **SMALL, layer_types=[LINEAR, FULL, LINEAR, FULL]),
        A.QWEN3NEXT,
        stored,
        {
            "expert_count": 6,
            "expert_used_count": 3,
            "expert_feed_forward_length": 32,
            "expert_shared_feed_forward_length": 64,
            "rope.dimension_count": 4,
            "attention.key_length": 16,
            "attention.value_length": 16,
            "attention.recurrent_layers": [True, False, True, False],
            "full_attention_interval": 4,
            "ssm.conv_kernel": 4,
            "ssm.inner_size": 64,
            "ssm.state_size": 16,
            "ssm.time_step_rank": 4,
            "ssm.group_count": 2,
        },
        exact=False,
        packed=packed,
    ),
    Arch(
        "qwen3-next-mixed",
        M,
        configured(
            C,
            **SMALL
            | {
                "head_dim": 24,
                "linear_num_key_heads": 3,
                "linear_num_value_heads": 3,
                "linear_key_head_dim": 8,
                "linear_value_head_dim": 24,
                "num_hidden_layers": 5,
            },
            linear_conv_kernel_dim=3,
            attention_bias=True,
            norm_topk_prob=False,
            decoder_sparse_step=2,
            mlp_only_layers=[3],
            rope_parameters=rope("default", 1e6, partial_rotary_factor=0.5),
            tie_word_embeddings=True,
            rms_norm_eps=1e-3,
        ),
    ),
)
