"""Falcon-H1: multipliers everywhere, none, and norms before the gate."""

from __future__ import annotations

import re
from typing import Any

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from tests.archs import mamba
from tests.archs.base import Arch, Arrays, Blocks, configured, rope
from tests.archs.hybrid import SPACE, SPACE_KEYS, stored

F, CF = transformers.FalconH1ForCausalLM, transformers.FalconH1Config
A = gguf.MODEL_ARCH


def factors(c: PretrainedConfig) -> dict[str, Any]:
    """Falcon-H1's multipliers, which are in the weights of a GGUF file, by module: of all of a
    weight, or of each row."""
    inner, shared = c.mamba_d_ssm, c.mamba_n_groups * c.mamba_d_state
    widths = (inner, inner, shared, shared, c.mamba_n_heads)
    gate, result = c.mlp_multipliers
    return {
        "down_proj": result,
        "gate_proj": gate,
        "k_proj": c.key_multiplier * c.attention_in_multiplier,
        "q_proj": c.attention_in_multiplier,
        "v_proj": c.attention_in_multiplier,
        "o_proj": c.attention_out_multiplier,
        "out_proj": c.ssm_out_multiplier,
        "in_proj": c.ssm_in_multiplier * np.repeat(c.ssm_multipliers, widths)[:, None],
        "lm_head": c.lm_head_multiplier,
        "embed_tokens": c.embedding_multiplier,
    }


def falcon(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """Multiplied weights; a norm's name has no ending."""
    by = factors(config)
    norm = re.compile(r"model\.layers\.(\d+)\.pre_ff_layernorm\.weight")
    out = {norm.sub(r"blk.\1.ffn_norm", n): a for n, a in stored(tensors, config).items()}
    return {n: (a * by.get(n.split(".")[-2], 1.0)).astype(np.float32) for n, a in out.items()}


def falcon_packed(name: str, value: np.ndarray, blocks: Blocks) -> np.ndarray:
    """What is packed are the multiplied weights."""
    by = factors(FALCON()).get(name.split(".")[-2], 1.0)
    left = mamba.packed(name, (value * by).astype(np.float32), blocks)
    return (left / by).astype(np.float32)


FALCON = configured(
    CF,
    **SPACE,
    mamba_d_ssm=128,
    mamba_rms_norm=True,
    mamba_norm_before_gate=False,
    head_dim=24,
    rope_parameters=rope("default", 1e6),
    embedding_multiplier=2.0,
    lm_head_multiplier=0.25,
    key_multiplier=0.5,
    attention_in_multiplier=0.9,
    attention_out_multiplier=0.7,
    ssm_in_multiplier=1.25,
    ssm_out_multiplier=0.4,
    mlp_multipliers=[0.8, 0.6],
    ssm_multipliers=[0.5, 0.7, 0.9, 1.2, 1.5],
)

ARCHS: tuple[Arch, ...] = (
    Arch(
        "falcon-h1",
        F,
        FALCON,
        A.FALCON_H1,
        falcon,
        {**SPACE_KEYS, "rope.freq_base": 1e6, "rope.dimension_count": None},
        exact=False,
        packed=falcon_packed,
    ),
    Arch(
        "falcon-h1-plain",
        F,
        configured(
            CF,
            **SPACE | {"mamba_n_groups": 1, "mamba_d_conv": 3, "mamba_d_head": 24},
            mamba_d_ssm=192,
            head_dim=16,
            tie_word_embeddings=True,
            max_position_embeddings=512,
        ),
        A.FALCON_H1,
        falcon,
        {
            **SPACE_KEYS,
            "ssm.inner_size": 192,
            "ssm.conv_kernel": 3,
            "ssm.group_count": 1,
            "rope.dimension_count": None,
        },
        exact=False,
        packed=mamba.packed,
    ),
    Arch(
        "falcon-h1-norm-first",
        F,
        configured(
            CF,
            **SPACE | {"mamba_d_head": "auto", "mamba_conv_bias": False},
            mamba_d_ssm=128,
            mamba_rms_norm=True,
            mamba_norm_before_gate=True,
            mamba_proj_bias=True,
            projectors_bias=True,
            attention_bias=True,
            mlp_bias=True,
            rms_norm_eps=1e-3,
            ssm_in_multiplier=1.25,
            attention_in_multiplier=0.9,
            mlp_multipliers=[0.8, 0.6],
            ssm_multipliers=[0.5, 0.7, 0.9, 1.2, 1.5],
        ),
    ),
)
