"""Nemotron: norms around 1, a squared ReLU, half of each head."""

from __future__ import annotations

import gguf
import transformers

from tests.archs.base import Arch, configured, rope
from tests.archs.gemma import plus_one

M, C = transformers.NemotronForCausalLM, transformers.NemotronConfig
A = gguf.MODEL_ARCH.NEMOTRON
EPS = {"attention.layer_norm_epsilon": 1e-5}

# 1 + w - 1 is w but for the last bits of small weights: `exact` cannot hold.
ARCHS: tuple[Arch, ...] = (
    Arch(
        "nemotron", M, configured(C), A, plus_one, {**EPS, "rope.dimension_count": 8}, exact=False
    ),
    Arch(
        "nemotron-bias",
        M,
        configured(
            C,
            attention_bias=True,
            mlp_bias=True,
            tie_word_embeddings=True,
            rope_parameters=rope("linear", factor=2.0, partial_rotary_factor=0.25),
        ),
        A,
        plus_one,
        {
            **EPS,
            "rope.dimension_count": 4,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 2.0,
        },
        exact=False,
    ),
    Arch("nemotron-head-dim", M, configured(C, head_dim=32)),
)
