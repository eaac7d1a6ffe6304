"""Qwen 1 as its own code wrote it. The same maths is in HF's Qwen 2 without groups of heads."""

from __future__ import annotations

from typing import Any

import gguf
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, configured, rope
from tests.archs.old import fused, renamed

MODEL, CONFIG = transformers.Qwen2ForCausalLM, transformers.Qwen2Config
_NAMES = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers.": "transformer.h.",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.qkv_proj": "attn.c_attn",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.gate_proj": "mlp.w2",
    "mlp.up_proj": "mlp.w1",
    "mlp.down_proj": "mlp.c_proj",
}


def theirs(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """Names of 2023, which llama.cpp's converter takes."""
    return renamed(fused(tensors), _NAMES)


def qwen(config: dict[str, Any], tensors: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Qwen-7B-Chat's config.json, at another size."""
    old = {
        "model_type": "qwen",
        "architectures": ["QWenLMHeadModel"],
        "attn_dropout_prob": 0.0,
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": False,
        "fp32": False,
        "hidden_size": config["hidden_size"],
        "initializer_range": 0.02,
        "intermediate_size": 2 * config["intermediate_size"],
        "kv_channels": config["hidden_size"] // config["num_attention_heads"],
        "layer_norm_epsilon": config["rms_norm_eps"],
        "max_position_embeddings": 4 * config["max_position_embeddings"],
        "no_bias": True,
        "num_attention_heads": config["num_attention_heads"],
        "num_hidden_layers": config["num_hidden_layers"],
        "onnx_safe": None,
        "rotary_emb_base": config["rope_parameters"]["rope_theta"],
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": config["max_position_embeddings"],
        "softmax_in_fp32": False,
        "tie_word_embeddings": False,
        "tokenizer_class": "QWenTokenizer",
        "use_cache": True,
        "use_cache_kernel": False,
        "use_cache_quantization": False,
        "use_dynamic_ntk": True,
        "use_flash_attn": "auto",
        "use_logn_attn": True,
        "vocab_size": config["vocab_size"],
    }
    return old, renamed(fused(tensors), _NAMES)


ARCHS: tuple[Arch, ...] = (
    Arch(
        "qwen1",
        MODEL,
        configured(CONFIG, num_key_value_heads=4),
        gguf.MODEL_ARCH.QWEN,
        theirs,
        {"feed_forward_length": 192},
        disk=qwen,
    ),
    Arch(
        "qwen1-wide",
        MODEL,
        configured(
            CONFIG,
            num_key_value_heads=8,
            num_attention_heads=8,
            intermediate_size=160,
            rope_parameters=rope("default", 1e6),
        ),
        gguf.MODEL_ARCH.QWEN,
        theirs,
        {"feed_forward_length": 320, "rope.freq_base": 1e6},
        disk=qwen,
    ),
)
