"""Arcee: a squared ReLU without a gate; yarn, as published."""

from __future__ import annotations

import gguf
import transformers

from tests.archs.base import Arch, configured, permuted, rope

M, C = transformers.ArceeForCausalLM, transformers.ArceeConfig
A = gguf.MODEL_ARCH.ARCEE

ARCHS: tuple[Arch, ...] = (
    Arch("arcee", M, configured(C, head_dim=32), A, permuted),
    Arch(
        "arcee-bias-yarn",
        M,
        configured(
            C,
            head_dim=16,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
            rope_parameters=rope(
                "yarn", factor=8.0, original_max_position_embeddings=32, beta_fast=32.0
            ),
        ),
        A,
        permuted,
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 8.0,
            "rope.scaling.original_context_length": 32,
        },
    ),
)
