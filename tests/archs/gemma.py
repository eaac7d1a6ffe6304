"""Gemma 1, 2 and 3."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from rbee_worker.verify.corrected import gemma_gelu
from tests.archs.base import Arch, Arrays, configured, rope


class TanhForm(transformers.GemmaForCausalLM):
    """HF 5.17 takes Gemma's `gelu` at its word."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        gemma_gelu(self)


def plus_one(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """llama.cpp's converter: files hold 1 + w for every norm."""
    one = np.float32(1)
    return {n: a + one if n.endswith("norm.weight") else a for n, a in tensors.items()}


def eager(make: Callable[[], PretrainedConfig]) -> Callable[[], PretrainedConfig]:
    """HF's other attention implementations ignore soft caps."""

    def made() -> PretrainedConfig:
        config = make()
        config._attn_implementation = "eager"
        return config

    return made


def _gemma3(**changes: Any) -> Callable[[], PretrainedConfig]:
    values = {
        "num_key_value_heads": 1,
        "head_dim": 32,
        "query_pre_attn_scalar": 32,
        "sliding_window": 24,
        "num_hidden_layers": 7,
    }
    return configured(transformers.Gemma3TextConfig, **{**values, **changes})


_CAPS = {"attn_logit_softcapping": 3.0, "final_logit_softcapping": 5.0}
_WIDTH = {"attention.key_length": 16, "attention.value_length": 16}
_GEMMA3 = {"rope.freq_base": 1e6, "rope.dimension_count": None, "attention.sliding_window": 24}
_DUAL = {
    "sliding_attention": rope("default", 5000.0),
    "full_attention": rope("linear", 1e6, factor=8.0),
}
G1, C1 = transformers.GemmaForCausalLM, transformers.GemmaConfig
G2, C2 = transformers.Gemma2ForCausalLM, transformers.Gemma2Config
G3 = transformers.Gemma3ForCausalLM
A = gguf.MODEL_ARCH

# 1 + w - 1 is w but for the last bits of small weights: `exact` cannot hold.
ARCHS: tuple[Arch, ...] = (
    Arch("gemma3", G3, _gemma3(), A.GEMMA3, plus_one, _GEMMA3, exact=False),
    Arch(
        "gemma3-linear",
        G3,
        _gemma3(rope_parameters=_DUAL, num_key_value_heads=2),
    ),
    Arch(
        "gemma2",
        G2,
        eager(configured(C2, head_dim=16, sliding_window=24, query_pre_attn_scalar=16, **_CAPS)),
        A.GEMMA2,
        plus_one,
        {
            "attention.sliding_window": 24,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
            "rope.dimension_count": None,
            **_WIDTH,
        },
        exact=False,
    ),
    Arch(
        "gemma2-scalar",
        G2,
        eager(
            configured(
                C2,
                head_dim=24,
                num_key_value_heads=1,
                sliding_window=24,
                query_pre_attn_scalar=40,
                attn_logit_softcapping=None,
                final_logit_softcapping=None,
                layer_types=["full_attention", "sliding_attention", "full_attention"],
                attention_bias=True,
            )
        ),
    ),
    Arch(
        "gemma",
        G1,
        configured(C1, head_dim=16),
        A.GEMMA,
        plus_one,
        {"rope.dimension_count": None, **_WIDTH},
        exact=False,
    ),
    Arch(
        "gemma-mqa",
        TanhForm,
        configured(
            C1,
            head_dim=32,
            num_key_value_heads=1,
            hidden_act="gelu",
            rope_parameters=rope("linear", 5e3, factor=2.0),
        ),
    ),
    Arch(
        "gemma3-types",
        G3,
        _gemma3(
            num_hidden_layers=6,
            layer_types=["full_attention", "sliding_attention"] * 3,
            final_logit_softcapping=20.0,
            rope_parameters={
                "sliding_attention": rope("default", 1e4),
                "full_attention": rope("linear", 1e6, factor=8.0),
            },
        ),
    ),
)
