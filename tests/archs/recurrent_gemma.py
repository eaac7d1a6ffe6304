"""RecurrentGemma: windows that are passed, a width of its own, other orders, biases."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from transformers import DynamicCache, PretrainedConfig

from tests.archs.base import Arch, configured

C = transformers.RecurrentGemmaConfig


class M(transformers.RecurrentGemmaForCausalLM):
    """With a cache in its output, where HF's class keeps the one that it makes; matrices begin as
    small as other families', so that layers make no error larger."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        with torch.no_grad():
            for p in self.parameters():
                if p.ndim > 1:
                    p.normal_(std=0.03)
        self.kept: Any = None
        self.register_forward_pre_hook(_given, with_kwargs=True)
        self.register_forward_hook(_told)


def _given(model: M, args: Any, named: dict[str, Any]) -> Any:
    if named.get("use_cache") and named.get("cache") is None:
        model._setup_cache(model.config, 1, "cpu", model.dtype)
        named["cache"] = DynamicCache(config=model.config)
    if named.get("cache") is not None:
        named["use_cache"] = True
    model.kept = named.get("cache")
    return args, named


def _told(model: M, args: Any, output: Any) -> Any:
    output["cache"] = model.kept
    return output


ARCHS: tuple[Arch, ...] = (
    Arch(
        "recurrent-gemma",
        M,
        configured(
            C, num_key_value_heads=1, attention_window_size=24, max_position_embeddings=None
        ),
    ),
    Arch(
        "recurrent-gemma-order",
        M,
        configured(
            C,
            hidden_size=96,
            lru_width=96,
            num_hidden_layers=5,
            block_types=["attention", "recurrent"],
            attention_window_size=40,
            attention_bias=True,
            conv1d_width=3,
            logits_soft_cap=20.0,
            rms_norm_eps=1e-3,
            tie_word_embeddings=False,
            max_position_embeddings=None,
        ),
    ),
)
