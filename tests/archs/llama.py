"""Llama, Mistral and those that differ from them in values: Qwen, SmolLM3, Granite, Helium."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, configured, permuted, rope

LLAMA3 = rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)


def _llama(**changes: Any) -> Callable[[], PretrainedConfig]:
    return configured(transformers.LlamaConfig, **{"rms_norm_eps": 1e-5, **changes})


def _mistral(**changes: Any) -> Callable[[], PretrainedConfig]:
    values = {"rms_norm_eps": 1e-5, "head_dim": 16, **changes}
    make = configured(transformers.MistralConfig, **values)

    def windowed() -> PretrainedConfig:
        config = make()
        config.sliding_window = changes.get("sliding_window")
        return config

    return windowed


def llama3_divisors(config: PretrainedConfig) -> Arrays:
    """The `rope_freqs` tensor llama.cpp's converter writes: plain / scaled frequency."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    dim = config.hidden_size // config.num_attention_heads
    plain = 1.0 / (10000.0 ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim))
    return {"rope_freqs.weight": (plain / scaled).numpy().astype(np.float32)}


L = transformers.LlamaForCausalLM
M = transformers.MistralForCausalLM
LLAMA = gguf.MODEL_ARCH.LLAMA

ARCHS: tuple[Arch, ...] = (
    Arch("llama", L, _llama(), LLAMA, permuted),
    Arch("llama-mha", L, _llama(num_key_value_heads=4), LLAMA, permuted),
    Arch("llama-tied", L, _llama(tie_word_embeddings=True), LLAMA, permuted),
    Arch("llama-bias", L, _llama(attention_bias=True, mlp_bias=True), LLAMA, permuted),
    Arch("llama-head-dim", L, _llama(head_dim=24), LLAMA, permuted),
    Arch(
        "llama3",
        L,
        _llama(rope_parameters=LLAMA3, tie_word_embeddings=True),
        LLAMA,
        permuted,
        extra=llama3_divisors,
        exact=False,
    ),
    Arch(
        "llama-linear",
        L,
        _llama(rope_parameters=rope("linear", factor=4.0)),
        LLAMA,
        permuted,
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    # HF rescales while it decodes: only the prompt is compared.
    Arch(
        "llama-dynamic",
        L,
        _llama(rope_parameters=rope("dynamic", factor=2.0), max_position_embeddings=40),
        decoded=0,
    ),
    Arch(
        "llama-yarn",
        L,
        _llama(rope_parameters=rope("yarn", factor=4.0, original_max_position_embeddings=32)),
        LLAMA,
        permuted,
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 32,
        },
    ),
    Arch("mistral", M, _mistral(), LLAMA, permuted),
    Arch("mistral-window", M, _mistral(sliding_window=24)),
    Arch("mistral-nemo", M, _mistral(head_dim=32), LLAMA, permuted),
    Arch(
        "yi",
        L,
        _llama(rope_parameters=rope("default", 5e6), num_attention_heads=8),
        LLAMA,
        permuted,
        {"rope.freq_base": 5e6},
    ),
)
