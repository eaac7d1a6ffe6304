"""Seed-OSS: biases of the maps into attention and out of it, each by a key of its own."""

from __future__ import annotations

import gguf
import transformers

from tests.archs.base import Arch, configured, rope

M, C = transformers.SeedOssForCausalLM, transformers.SeedOssConfig
A = gguf.MODEL_ARCH.SEED_OSS

ARCHS: tuple[Arch, ...] = (
    Arch(
        "seed-oss",
        M,
        configured(C, head_dim=32, rope_parameters=rope("default", 1e7)),
        A,
        metadata={"rope.freq_base": 1e7},
    ),
    Arch(
        "seed-oss-other-biases",
        M,
        configured(
            C,
            head_dim=16,
            attention_bias=False,
            attention_out_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
        ),
        A,
    ),
)
