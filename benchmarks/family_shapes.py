"""Shapes of about 300 million parameters for every family: config.json values, no checkpoint.

Widths are alike, 1024 with heads of 64 and a vocabulary of 32,000, so that families differ in what
they do and not in how large their matrices are; the number of layers makes up the size. What a
family is alone in (windows, experts, latent keys, norms, biases) is as its published models have.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

from rbee_worker.models.random import random_checkpoint

YARDSTICK = "llama"
LAYERS = "num_hidden_layers"

_BASE: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
_FOUR_TIMES = {"intermediate_size": 4096}  # an MLP without a gate
_FEW = {"num_local_experts": 8, "num_experts_per_tok": 2, "intermediate_size": 1024}
_MANY = {"num_experts": 32, "num_experts_per_tok": 4, "moe_intermediate_size": 384}
_MUP = {
    "attention_multiplier": 0.015625,
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "logits_scaling": 8.0,
}
_LATENT = {
    "num_key_value_heads": 16,
    "kv_lora_rank": 256,
    "qk_rope_head_dim": 32,
    "qk_nope_head_dim": 64,
    "v_head_dim": 64,
    "first_k_dense_replace": 1,
    "n_routed_experts": 32,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 384,
}
_RECURRENT: dict[str, Any] = {
    "intermediate_size": 2048,
    "num_attention_heads": None,
    "num_key_value_heads": None,
    "max_position_embeddings": None,
}
_HEADED = {"mamba_n_heads": 32, "mamba_d_state": 128}


def _fourths(layers: int) -> list[int]:
    """The numbers of every fourth of `layers` layers: those of a hybrid that have attention."""
    return list(range(3, layers, 4))


def _every_fourth(layers: int) -> list[str]:
    """The same as kinds of layers."""
    full = _fourths(layers)
    return ["full_attention" if n in full else "linear_attention" for n in range(layers)]


def _short_convs(layers: int) -> list[str]:
    """The same of LFM2, in whose words the others are convolutions."""
    return [kind.replace("linear_attention", "conv") for kind in _every_fourth(layers)]


def _turns(layers: int) -> list[str]:
    """Nemotron-H's: a recurrent layer and one with attention, each with a block behind it."""
    order = ("linear_attention", "moe", "full_attention", "mlp")
    return [order[n % len(order)] for n in range(layers)]


_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}

# model_type -> what differs from _BASE; None removes a key, a function gives its value for a number
# of layers.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {},
    "mistral": {"sliding_window": 4096},
    "qwen2": {},
    "qwen3": {"head_dim": 64},
    "mixtral": _FEW,
    "qwen2_moe": {**_MANY, "shared_expert_intermediate_size": 768},
    "qwen3_moe": {**_MANY, "head_dim": 64, "norm_topk_prob": True},
    "smollm3": {},
    "granite": _MUP,
    "granitemoe": {**_FEW, **_MUP},
    "granitemoeshared": {**_FEW, **_MUP, "shared_intermediate_size": 768},
    "helium": {"head_dim": 64, "num_key_value_heads": 16},
    "gemma": {"head_dim": 64, "tie_word_embeddings": True},
    "gemma2": {
        **_CAPS,
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
    "gemma3_text": {
        "head_dim": 64,
        "query_pre_attn_scalar": 64,
        "sliding_window": 512,
        "tie_word_embeddings": True,
    },
    "phi": {**_FOUR_TIMES, "num_key_value_heads": 16},
    "phi3": {"num_key_value_heads": 16, "rms_norm_eps": 1e-5},
    "phimoe": {**_FEW, "attention_bias": True, "lm_head_bias": True},
    "glm": {"head_dim": 64, "num_key_value_heads": 2, "attention_bias": True},
    "glm4": {"head_dim": 64, "num_key_value_heads": 2},
    "olmo": {"num_key_value_heads": 16},
    "olmo2": {"num_key_value_heads": 16},
    "olmo3": {"num_key_value_heads": 16},
    "stablelm": {"num_key_value_heads": 16},
    "starcoder2": _FOUR_TIMES,
    "olmoe": {"intermediate_size": 384, "num_experts": 32, "num_experts_per_tok": 4},
    "dots1": {k: v for k, v in _LATENT.items() if "lora" not in k and "head_dim" not in k},
    "glm4_moe": {
        **{k: v for k, v in _LATENT.items() if "lora" not in k and "head_dim" not in k},
        "head_dim": 64,
        "num_key_value_heads": 4,
    },
    "exaone4": {"head_dim": 64},
    "arcee": _FOUR_TIMES,
    "seed_oss": {"head_dim": 64},
    "hunyuan_v1_dense": {"head_dim": 64, "tie_word_embeddings": True},
    "nemotron": _FOUR_TIMES,
    "cohere": {"tie_word_embeddings": True},
    "falcon": {
        "intermediate_size": None,
        "num_key_value_heads": None,
        "multi_query": True,
        "parallel_attn": True,
    },
    "mpt": {
        "vocab_size": 32000,
        "d_model": 1024,
        "n_heads": 16,
        "max_seq_len": 4096,
        "attn_config": {"attn_impl": "torch", "alibi": True},
    },
    "gpt_bigcode": {
        "vocab_size": 32000,
        "n_embd": 1024,
        "n_head": 16,
        "n_positions": 4096,
        "n_inner": 4096,
    },
    "persimmon": {**_FOUR_TIMES, "num_key_value_heads": None, "qk_layernorm": True},
    "deepseek_v2": {**_LATENT, "q_lora_rank": None},
    "deepseek_v3": {**_LATENT, "q_lora_rank": 384, "n_group": 4, "topk_group": 2},
    "gemma4_text": {
        "head_dim": 64,
        "global_head_dim": 128,
        "sliding_window": 512,
        "vocab_size_per_layer_input": 32000,
        "hidden_size_per_layer_input": 64,
        "tie_word_embeddings": True,
    },
    "llama4_text": {
        "head_dim": 64,
        "num_local_experts": 4,
        "num_experts_per_tok": 1,
        "intermediate_size": 1024,
        "intermediate_size_mlp": 2048,
        "interleave_moe_layer_step": 1,
    },
    "gpt_oss": {
        "head_dim": 64,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "intermediate_size": 1024,
    },
    "mamba": _RECURRENT,
    "falcon_mamba": _RECURRENT,
    "mamba2": {**_RECURRENT, "num_heads": 32, "head_dim": 64, "n_groups": 1},
    "granitemoehybrid": {
        **_FEW,
        **_MUP,
        **_HEADED,
        "shared_intermediate_size": 768,
        "layer_types": _every_fourth,
    },
    "nemotron_h": {
        "intermediate_size": 4096,
        "head_dim": 64,
        "mamba_num_heads": 32,
        "n_groups": 1,
        "n_routed_experts": 16,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 512,
        "moe_shared_expert_intermediate_size": 1024,
        "layers_block_type": _turns,
    },
    "lfm2": {"layer_types": _short_convs, "block_auto_adjust_ff_dim": False},
    "lfm2_moe": {
        "layer_types": _short_convs,
        "num_experts": 16,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 512,
    },
    "qwen3_next": {
        **_MANY,
        "head_dim": 64,
        "linear_num_key_heads": 8,
        "linear_num_value_heads": 16,
        "shared_expert_intermediate_size": 384,
    },
    "recurrent_gemma": {
        "intermediate_size": 5632,
        "num_key_value_heads": 1,
        "block_types": ["recurrent", "recurrent", "recurrent", "attention"],
        "tie_word_embeddings": True,
        "max_position_embeddings": None,
    },
    "jamba": {
        "intermediate_size": 1024,
        "attn_layer_period": 4,
        "attn_layer_offset": 2,
        "num_experts": 8,
        "num_experts_per_tok": 2,
    },
    "falcon_h1": {**_HEADED, "head_dim": 64, "mamba_d_ssm": 1536, "mamba_n_heads": 24},
    "bamba": {**_HEADED, "attn_layer_indices": _fourths},
    "based": {
        "vocab_size": 32000,
        "n_embd": 1024,
        "n_head": 16,
        "n_inner": 2048,
        "rotary_emb_fraction": 1.0,
        "alt_mixer_layers": lambda layers: list(range(1, layers, 5)),
        "alt_mixer_2_layers": lambda layers: list(range(2, layers, 5)),
        "mixer": {"expand_proj": 4, "l_max": 4096},
        "alt_mixer": {"num_heads": 16, "feature_dim": 16},
        "alt_mixer_2": {"window_size": 256},
    },
    "rwkv5": {**_RECURRENT, "intermediate_size": None},
    "rwkv6": {**_RECURRENT, "intermediate_size": None},
    "rwkv7": {**_RECURRENT, "intermediate_size": None},
}
_OWN_WORDS = {
    "mpt": "n_layers",
    "gpt_bigcode": "n_layer",
    "based": "n_layer",
}  # families with keys of their own


def config_of(family: str, parameters: int) -> dict[str, Any]:
    """A config.json of `family` with about that many parameters, one layer's worth exact.

    Raises KeyError for a family that is not in the table.
    """
    few, more = 4, 8  # layers; sizes grow by the same from layer to layer
    small, large = (_parameters(_config(family, n)) for n in (few, more))
    layer = (large - small) // (more - few)
    return _config(family, max(2, few + round((parameters - small) / layer)))


def _config(family: str, layers: int) -> dict[str, Any]:
    named = _OWN_WORDS.get(family, LAYERS)
    base = {} if family in _OWN_WORDS else _BASE
    values = {**base, **FAMILIES[family], "model_type": family, named: layers}
    values = {k: v(layers) if callable(v) else v for k, v in values.items()}
    kept = {k: v for k, v in values.items() if v is not None}
    if "q_lora_rank" in FAMILIES[family]:
        kept["q_lora_rank"] = FAMILIES[family]["q_lora_rank"]  # None says something here
    return kept


def _parameters(config: Mapping[str, Any]) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "config.json"
        path.write_text(json.dumps(config))
        source = random_checkpoint(str(path)).source
    return sum(prod(source.info(name).shape) for name in source.names())
