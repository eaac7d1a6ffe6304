"""Gemma 4: wide heads, shared keys, inputs of each layer, experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, configured

CONFIG = transformers.Gemma4TextConfig


class Model(transformers.Gemma4ForCausalLM):
    """With factors of layers and scales of experts that are not one."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        with torch.no_grad():
            for name, b in self.named_buffers():
                if name.endswith("layer_scalar"):
                    b.fill_(0.5 + torch.rand(()).item())


def with_towers(config: dict[str, Any], tensors: Arrays) -> tuple[dict[str, Any], Arrays]:
    """The whole model, as published; layers that share keys have some that are not used."""
    whole = {
        "model_type": "gemma4",
        "architectures": ["Gemma4ForConditionalGeneration"],
        "audio_config": {"hidden_size": 8},
        "audio_token_id": 258881,
        "eos_token_id": [1, 106],
        "image_token_id": 258880,
        "text_config": {k: v for k, v in config.items() if k != "architectures"},
        "vision_config": {"hidden_size": 8},
    }
    out = {n.replace("model.", "model.language_model.", 1): a for n, a in tensors.items()}
    for n in ("vision_tower.x.weight", "audio_tower.x.weight", "embed_vision.x.weight"):
        out[f"model.{n}"] = np.ones((8, 8), np.float32)
    out["model.language_model.layers.3.self_attn.k_norm.weight"] = np.ones(32, np.float32)
    return whole, out


def _gemma4(**changes: Any) -> Callable[[], PretrainedConfig]:
    types = ["sliding_attention", "full_attention"]
    values = {
        "head_dim": 16,
        "global_head_dim": 32,
        "num_hidden_layers": 4,
        "layer_types": types * 2,
        "sliding_window": 24,
        "vocab_size_per_layer_input": 211,
        "hidden_size_per_layer_input": 32,
        **changes,
    }
    return configured(CONFIG, **values)


ARCHS: tuple[Arch, ...] = (
    # As E2B and E4B: the last layers share keys and are twice as wide.
    Arch(
        "gemma4-shared-keys",
        Model,
        _gemma4(num_kv_shared_layers=2, use_double_wide_mlp=True, final_logit_softcapping=30.0),
        disk=with_towers,
    ),
    # As 26B-A4B: experts, keys that are values, no inputs of layers.
    Arch(
        "gemma4-experts",
        Model,
        _gemma4(
            hidden_size_per_layer_input=0,
            attention_k_eq_v=True,
            num_global_key_value_heads=1,
            enable_moe_block=True,
            num_experts=6,
            top_k_experts=2,
            moe_intermediate_size=32,
        ),
    ),
)
