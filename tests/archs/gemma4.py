"""Gemma 4: wide heads, shared keys, inputs of each layer, experts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, configured

CONFIG = transformers.Gemma4TextConfig


class Model(transformers.Gemma4ForCausalLM):
    """With factors of layers that are not one: above it, each another.

    A factor shrinks or stretches all that a layer passes on, and what the next one adds is normed.
    Below one, what is added outweighs what was there: six layers, most with 0.5 to 0.85, made an
    error 160 times as large, transformers' own rounding no less than ours.
    """

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        with torch.no_grad():
            for name, b in self.named_buffers():
                if name.endswith("layer_scalar"):
                    b.fill_(1.0 + 0.5 * torch.rand(()).item())


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
    out["model.language_model.layers.5.self_attn.k_norm.weight"] = np.ones(32, np.float32)
    return whole, out


def named(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """llama.cpp's converter: scales of the router and of experts beside what they scale."""
    out = {}
    for name, array in tensors.items():
        stem = name.removesuffix("layer_scalar")
        if stem != name or ".experts." in name:
            name += ".weight"
        name = name.replace("router.scale", "router.proj.scale")
        out[name.replace("router.per_expert_scale", "experts.down_proj.scale")] = array
    return out


def apart(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """The same with gate and up of experts in two tensors, which llama.cpp reads as well."""
    out = {}
    for name, array in named(tensors, config).items():
        stem = name.removesuffix("gate_up_proj.weight")
        if stem != name and ".experts." in name:
            half = array.shape[1] // 2
            layer = stem.split(".")[2]
            out[f"blk.{layer}.ffn_gate_exps.weight"] = array[:, :half]
            out[f"blk.{layer}.ffn_up_exps.weight"] = array[:, half:]
        else:
            out[name] = array
    return out


def still(config: PretrainedConfig) -> Arrays:
    """What divides the frequencies of wide heads: three quarters of them never turn."""
    divisors = np.full(16, 1e30, np.float32)
    divisors[:4] = 1.0
    return {"rope_freqs.weight": divisors}


def _gemma4(**changes: Any) -> Callable[[], PretrainedConfig]:
    types = ["sliding_attention", "full_attention"]
    values = {
        "head_dim": 16,
        "global_head_dim": 32,
        "num_hidden_layers": 6,
        "layer_types": types * 3,
        "sliding_window": 24,
        "vocab_size_per_layer_input": 211,
        "hidden_size_per_layer_input": 32,
        **changes,
    }
    return configured(CONFIG, **values)


_KEYS: dict[str, Any] = {
    "attention.sliding_window": 24,
    "attention.sliding_window_pattern": [True, False] * 3,
    "attention.shared_kv_layers": 0,
    "attention.key_length": 32,
    "attention.value_length": 32,
    "attention.key_length_swa": 16,
    "attention.value_length_swa": 16,
    "rope.freq_base": 1e6,
    "rope.freq_base_swa": 1e4,
    "rope.dimension_count": 32,
    "rope.dimension_count_swa": 16,
}
_EXPERTS = {"enable_moe_block": True, "num_experts": 6, "top_k_experts": 2}
_EXPERT_KEYS = {
    "expert_count": 6,
    "expert_used_count": 2,
    "expert_feed_forward_length": 32,
}
A = gguf.MODEL_ARCH.GEMMA4

ARCHS: tuple[Arch, ...] = (
    # As E2B and E4B: the last layers share keys and are twice as wide.
    Arch(
        "gemma4-shared-keys",
        Model,
        _gemma4(num_kv_shared_layers=2, use_double_wide_mlp=True, final_logit_softcapping=30.0),
        A,
        named,
        {
            **_KEYS,
            "attention.shared_kv_layers": 2,
            "feed_forward_length": [96] * 4 + [192] * 2,
            "embedding_length_per_layer_input": 32,
            "final_logit_softcapping": 30.0,
        },
        extra=still,
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
            **_EXPERTS,
            moe_intermediate_size=32,
        ),
        A,
        named,
        {
            **_KEYS,
            **_EXPERT_KEYS,
            "attention.head_count_kv": [2, 1] * 3,
            "embedding_length_per_layer_input": 0,
        },
        extra=still,
    ),
    # No published model: what the others have one without the other.
    Arch(
        "gemma4-mixed",
        Model,
        _gemma4(num_kv_shared_layers=2, **_EXPERTS, moe_intermediate_size=32),
        A,
        apart,
        {
            **_KEYS,
            **_EXPERT_KEYS,
            "attention.shared_kv_layers": 2,
            "attention.head_count_kv": [2] * 6,
            "embedding_length_per_layer_input": 32,
        },
        extra=still,
    ),
)
