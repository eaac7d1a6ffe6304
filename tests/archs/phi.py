"""Phi 1 to 4."""

from __future__ import annotations

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from rbee_worker.verify.corrected import phimoe_long
from tests.archs.base import Arch, Arrays, configured, rope
from tests.archs.mixture import halves

P, CP = transformers.PhiForCausalLM, transformers.PhiConfig
PM, CPM = transformers.PhimoeForCausalLM, transformers.PhimoeConfig
P3, C3 = transformers.Phi3ForCausalLM, transformers.Phi3Config
A = gguf.MODEL_ARCH

SHORT = [1.0, 1.1, 1.3, 1.6, 2.0, 2.4, 2.9, 3.5]
LONG = [1.0, 1.8, 2.9, 4.1, 6.5, 9.0, 14.0, 20.0]


def longrope(columns: int, **changes: object) -> dict[str, object]:
    """HF's `rope_parameters` for so many rotated columns."""
    half = columns // 2
    return rope("longrope", short_factor=SHORT[:half], long_factor=LONG[:half], **changes)


def factors(config: PretrainedConfig) -> Arrays:
    """The two tensors that llama.cpp's converter writes."""
    given = config.rope_parameters
    return {
        f"rope_factors_{kind}.weight": np.array(given[f"{kind}_factor"], np.float32)
        for kind in ("short", "long")
    }


def fused(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """What converters of 2023 did: q, k, v of Phi-2 in one matrix."""
    out = {n: a for n, a in tensors.items() if "self_attn" not in n or "dense" in n}
    for layer in range(config.num_hidden_layers):
        at = f"model.layers.{layer}.self_attn"
        for kind in ("weight", "bias"):
            parts = [tensors[f"{at}.{p}_proj.{kind}"] for p in "qkv"]
            # The name that the gguf package maps to attn_qkv.
            out[f"model.layers.{layer}.self_attn.qkv_proj.{kind}"] = np.concatenate(parts)
    return out


class PhimoeWithLong(PM):
    """HF takes the short set at any length; the model's own code does not."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        phimoe_long(self)


def experts(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """llama.cpp's converter: experts stacked, under the names that the gguf package knows."""
    return {
        n.replace("mlp.gate.", "block_sparse_moe.gate."): a
        for n, a in halves(tensors, config).items()
    }


def long_keys(original: int, length: int) -> dict[str, object]:
    """LongRoPE as llama.cpp's converter writes it: the magnitude and the original length."""
    magnitude = float(np.sqrt(1 + np.log(length / original) / np.log(original)))
    return {
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": magnitude,
    }


MAGNITUDE = float(np.sqrt(1 + np.log(256 / 32) / np.log(32)))  # that llama.cpp's converter takes

# Prompts have 70 tokens: an original length of 128 keeps the short set, 32 takes the long one.
ARCHS: tuple[Arch, ...] = (
    Arch(
        "phi3-plain-window",
        P3,
        configured(C3, sliding_window=24),
        A.PHI3,
        metadata={"attention.sliding_window": 24},
    ),
    Arch(
        "phi3-short",
        P3,
        configured(C3, rope_parameters=longrope(16), original_max_position_embeddings=128),
        A.PHI3,
        metadata=long_keys(128, 256),
        extra=factors,
        exact=False,  # the magnitude is a float32 in the file
    ),
    Arch(
        "phi3-long",
        P3,
        configured(C3, rope_parameters=longrope(16), original_max_position_embeddings=32),
        A.PHI3,
        metadata=long_keys(32, 256),
        extra=factors,
        exact=False,
    ),
    Arch(
        "phi4-mini",
        P3,
        configured(
            C3,
            rope_parameters=longrope(12, partial_rotary_factor=0.75),
            original_max_position_embeddings=64,
            tie_word_embeddings=True,
        ),
        A.PHI3,
        metadata=long_keys(64, 256) | {"rope.dimension_count": 12},
        extra=factors,
        exact=False,
    ),
    Arch("phi", P, configured(CP), A.PHI2, metadata={"rope.dimension_count": 8}),
    Arch(
        "phi-mha-fused",
        P,
        configured(
            CP,
            num_key_value_heads=4,
            intermediate_size=256,
            rope_parameters=rope("default", partial_rotary_factor=0.25),
        ),
        A.PHI2,
        fused,
        {"rope.dimension_count": 4},
    ),
    Arch("phi-qk-norm", P, configured(CP, qk_layernorm=True)),
    Arch(
        "phimoe",
        PM,
        configured(
            CPM,
            num_local_experts=4,
            attention_bias=True,
            lm_head_bias=True,
            rope_parameters=rope("default", 1e6),
        ),
        A.PHIMOE,
        experts,
        {"rope.freq_base": 1e6, "expert_count": 4, "expert_used_count": 2},
    ),
    Arch(
        "phimoe-short",
        PM,
        configured(
            CPM,
            num_local_experts=4,
            router_jitter_noise=0.2,
            rope_parameters=longrope(
                16,
                original_max_position_embeddings=128,
                short_mscale=1.1,
                long_mscale=1.3,
            ),
        ),
    ),
    Arch(
        "phimoe-long",
        PhimoeWithLong,
        configured(
            CPM,
            num_local_experts=6,
            sliding_window=48,
            rope_parameters=longrope(
                16,
                original_max_position_embeddings=32,
                short_mscale=MAGNITUDE,
                long_mscale=MAGNITUDE,
            ),
        ),
        A.PHIMOE,
        experts,
        {
            "rope.scaling.original_context_length": 32,
            "rope.scaling.attn_factor": MAGNITUDE,
            "expert_count": 6,
            "expert_used_count": 2,
            "attention.sliding_window": 48,
        },
        extra=factors,
        exact=False,
    ),
)
