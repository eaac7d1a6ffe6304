"""DeepSeek V2 and V3: latent attention, routing of every kind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, Blocks, configured, rope
from tests.archs.mixture import halves
from tests.archs.small_experts import ChoiceBiases

V2, C2 = transformers.DeepseekV2ForCausalLM, transformers.DeepseekV2Config
C3 = transformers.DeepseekV3Config
A = gguf.MODEL_ARCH
LATENT, TURNING, PLAIN, VALUE = 32, 16, 32, 32


class V3(ChoiceBiases, transformers.DeepseekV3ForCausalLM):
    """With biases that matter for choosing experts."""


_WIDTHS = {
    "kv_lora_rank": LATENT,
    "qk_rope_head_dim": TURNING,
    "qk_nope_head_dim": PLAIN,
    "v_head_dim": VALUE,
    "num_key_value_heads": 4,
}
_EXPERTS = {"n_routed_experts": 8, "num_experts_per_tok": 3, "moe_intermediate_size": 32}
_YARN = rope(
    "yarn", factor=4.0, original_max_position_embeddings=32, mscale=0.707, mscale_all_dim=0.707
)
_YARN_KEYS = {
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 32,
    "rope.scaling.yarn_log_multiplier": 0.0707,
}
_OLD_KEYS = {
    "attention.kv_lora_rank": LATENT,
    "attention.key_length": PLAIN + TURNING,
    "attention.value_length": VALUE,
    "rope.dimension_count": TURNING,
    "expert_count": 8,
    "expert_used_count": 3,
    "expert_feed_forward_length": 32,
    "expert_shared_count": 2,
    "expert_weights_scale": 1.0,
    "expert_weights_norm": False,
    "leading_dense_block_count": 1,
}
_NEW_KEYS = _OLD_KEYS | {
    "attention.head_count_kv": 1,
    "attention.key_length": LATENT + TURNING,
    "attention.value_length": LATENT,
    "attention.key_length_mla": PLAIN + TURNING,
    "attention.value_length_mla": VALUE,
}


def _deepseek(kind: type[PretrainedConfig], **changes: Any) -> Callable[[], PretrainedConfig]:
    make = configured(kind, **{**_WIDTHS, **_EXPERTS, "first_k_dense_replace": 1, **changes})

    def ranked() -> PretrainedConfig:
        config = make()
        config.q_lora_rank = changes.get("q_lora_rank")
        return config

    return ranked


def stacked(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """llama.cpp's converter of 2024: experts stacked, the bias of the choice renamed."""
    out = {}
    for name, array in halves(tensors, config).items():
        name = name.replace("e_score_correction_bias", "e_score_correction.bias")
        out[name] = array
    return out


def taken_apart(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """The converter of today: kv_b as one matrix a head into the latent space, one out of it."""
    out = {}
    for name, array in stacked(tensors, config).items():
        if ".kv_b_proj." not in name:
            out[name] = array
            continue
        by_head = array.reshape(config.num_attention_heads, -1, config.kv_lora_rank)
        plain = config.qk_nope_head_dim
        out[name.replace("kv_b", "k_b")] = by_head[:, :plain].swapaxes(1, 2)
        out[name.replace("kv_b", "v_b")] = by_head[:, plain:]
    return out


def in_blocks(name: str, value: np.ndarray, blocks: Blocks) -> np.ndarray:
    """What is left of a tensor after `taken_apart` and packing: keys have blocks along the head."""
    if ".kv_b_proj." not in name:
        return blocks(value)
    by_head = value.reshape(-1, PLAIN + VALUE, LATENT)
    keys = blocks(np.ascontiguousarray(by_head[:, :PLAIN].swapaxes(1, 2))).swapaxes(1, 2)
    values = blocks(np.ascontiguousarray(by_head[:, PLAIN:]))
    return np.concatenate([keys, values], 1).reshape(value.shape)


ARCHS: tuple[Arch, ...] = (
    Arch(
        "deepseek-v2-lite",
        V2,
        _deepseek(C2, rope_parameters=_YARN),
        A.DEEPSEEK2,
        stacked,
        _OLD_KEYS | _YARN_KEYS,
    ),
    Arch(
        "deepseek-v2-groups",
        V2,
        _deepseek(
            C2,
            q_lora_rank=32,
            topk_method="group_limited_greedy",
            n_group=4,
            topk_group=2,
            routed_scaling_factor=16.0,
            attention_bias=True,
        ),
        A.DEEPSEEK2,
        taken_apart,
        {
            **_NEW_KEYS,
            "attention.q_lora_rank": 32,
            "expert_weights_scale": 16.0,
            "expert_gating_func": 1,
            "expert_group_count": 4,
            "expert_group_used_count": 2,
        },
        packed=in_blocks,
    ),
    Arch(
        "deepseek-v3",
        V3,
        _deepseek(
            C3,
            q_lora_rank=32,
            n_group=4,
            topk_group=2,
            n_shared_experts=1,
            rope_parameters={**_YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        ),
        A.DEEPSEEK2,
        taken_apart,
        {
            **_NEW_KEYS,
            **_YARN_KEYS,
            "rope.scaling.yarn_log_multiplier": 0.1,
            "attention.q_lora_rank": 32,
            "expert_shared_count": 1,
            "expert_weights_scale": 2.5,
            "expert_weights_norm": True,
            "expert_gating_func": 2,
            "expert_group_count": 4,
            "expert_group_used_count": 2,
        },
        packed=in_blocks,
    ),
    # As Moonlight is: one group, no low rank for queries.
    Arch(
        "deepseek-v3-one-group",
        V3,
        _deepseek(
            C3,
            n_group=1,
            topk_group=1,
            n_shared_experts=2,
            norm_topk_prob=False,
            rope_interleave=False,
            first_k_dense_replace=2,
            v_head_dim=16,
        ),
    ),
)
