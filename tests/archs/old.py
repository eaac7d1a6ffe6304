"""Checkpoints with the names of the models' own code: they equal HF's classes after renaming."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, configured, rope

GLM, CGLM = transformers.GlmForCausalLM, transformers.GlmConfig
P, CP = transformers.PhiForCausalLM, transformers.PhiConfig

_CHATGLM = {
    "model.embed_tokens": "transformer.embedding.word_embeddings",
    "model.norm": "transformer.encoder.final_layernorm",
    "lm_head": "transformer.output_layer",
    "model.layers.": "transformer.encoder.layers.",
    "self_attn.qkv_proj": "self_attention.query_key_value",
    "self_attn.o_proj": "self_attention.dense",
    "mlp.gate_up_proj": "mlp.dense_h_to_4h",
    "mlp.down_proj": "mlp.dense_4h_to_h",
}


def renamed(tensors: Arrays, names: dict[str, str]) -> Arrays:
    """Tensors with every part of a name replaced."""
    out = {}
    for name, array in tensors.items():
        for new, old in names.items():
            name = name.replace(new, old)
        out[name] = array
    return out


def fused(tensors: Arrays) -> Arrays:
    """q, k and v in one matrix, one after the other."""
    out = {}
    for name, array in tensors.items():
        if ".q_proj." in name:
            parts = [tensors[name.replace("q_proj", f"{p}_proj")] for p in "qkv"]
            out[name.replace("q_proj", "qkv_proj")] = np.concatenate(parts)
        elif ".k_proj." not in name and ".v_proj." not in name:
            out[name] = array
    return out


def chatglm(config: dict[str, Any], tensors: Arrays) -> tuple[dict[str, Any], Arrays]:
    """ChatGLM 3 and GLM-4-9b as their own code writes them."""
    theirs = {
        "model_type": "chatglm",
        "architectures": ["ChatGLMModel"],
        "add_bias_linear": False,
        "add_qkv_bias": config["attention_bias"],
        "apply_query_key_layer_scaling": True,
        "apply_residual_connection_post_layernorm": False,
        "ffn_hidden_size": config["intermediate_size"],
        "hidden_size": config["hidden_size"],
        "kv_channels": config["head_dim"],
        "layernorm_epsilon": config["rms_norm_eps"],
        "multi_query_attention": True,
        "multi_query_group_num": config["num_key_value_heads"],
        "num_attention_heads": config["num_attention_heads"],
        "num_layers": config["num_hidden_layers"],
        "original_rope": True,
        "padded_vocab_size": config["vocab_size"],
        "post_layer_norm": True,
        "rmsnorm": True,
        "rope_ratio": config["rope_parameters"]["rope_theta"] / 10000,
        "seq_length": config["max_position_embeddings"],
        "tie_word_embeddings": False,
        "eos_token_id": 2,
    }
    more = {"transformer.rotary_pos_emb.inv_freq": np.ones(4, np.float32)}
    return theirs, renamed(fused(tensors), _CHATGLM) | more


def _phi_config(config: dict[str, Any], model_type: str) -> dict[str, Any]:
    rotary = config["rope_parameters"]["partial_rotary_factor"]
    width = config["hidden_size"] // config["num_attention_heads"]
    return {
        "model_type": model_type,
        "activation_function": "gelu_new",
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "layer_norm_epsilon": config["layer_norm_eps"],
        "n_embd": config["hidden_size"],
        "n_head": config["num_attention_heads"],
        "n_inner": config["intermediate_size"],
        "n_layer": config["num_hidden_layers"],
        "n_positions": config["max_position_embeddings"],
        "resid_pdrop": 0.1,
        "rotary_dim": int(rotary * width),
        "tie_word_embeddings": False,
        "vocab_size": config["vocab_size"],
    }


_PHI = {
    "input_layernorm": "ln",
    "self_attn.qkv_proj": "mixer.Wqkv",
    "self_attn.dense": "mixer.out_proj",
}


def phi_msft(config: dict[str, Any], tensors: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Phi-2 as its own code of December 2023 writes it."""
    names = _PHI | {
        "lm_head": "lm_head.linear",
        "model.final_layernorm": "lm_head.ln",
        "model.embed_tokens": "transformer.embd.wte",
        "model.layers.": "transformer.h.",
    }
    return _phi_config(config, "phi-msft"), renamed(fused(tensors), names)


def mixformer(config: dict[str, Any], tensors: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Phi-1 and 1.5 as one sequence: the embedding is layer 0, the head the last."""
    last = config["num_hidden_layers"] + 1
    names = _PHI | {
        "lm_head": f"layers.{last}.linear",
        "model.final_layernorm": f"layers.{last}.ln",
        "model.embed_tokens": "layers.0.wte",
    }
    out = {}
    for name, array in renamed(fused(tensors), names).items():
        if name.startswith("model.layers."):
            number, _, rest = name.removeprefix("model.layers.").partition(".")
            name = f"layers.{int(number) + 1}.{rest}"
        out[name] = array
    for layer in range(1, last):
        out[f"layers.{layer}.mixer.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    return _phi_config(config, "mixformer-sequential"), out


_QWEN = {
    "model.embed_tokens": "transformer.wte",
    "model.norm": "transformer.ln_f",
    "model.layers.": "transformer.h.",
    "input_layernorm": "ln_1",
    "post_attention_layernorm": "ln_2",
    "self_attn.qkv_proj": "attn.c_attn",
    "self_attn.o_proj": "attn.c_proj",
    "mlp.up_proj": "mlp.w1",
    "mlp.gate_proj": "mlp.w2",
    "mlp.down_proj": "mlp.c_proj",
}


def qwen(config: dict[str, Any], tensors: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Qwen 1 as its own code writes it; an MLP is half as wide as its config says."""
    theirs = {
        "model_type": "qwen",
        "architectures": ["QWenLMHeadModel"],
        "attn_dropout_prob": 0.0,
        "bf16": True,
        "emb_dropout_prob": 0.0,
        "hidden_size": config["hidden_size"],
        "intermediate_size": 2 * config["intermediate_size"],
        "kv_channels": config["hidden_size"] // config["num_attention_heads"],
        "layer_norm_epsilon": config["rms_norm_eps"],
        "max_position_embeddings": 4 * config["max_position_embeddings"],
        "no_bias": True,
        "num_attention_heads": config["num_attention_heads"],
        "num_hidden_layers": config["num_hidden_layers"],
        "rotary_emb_base": 10000,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": config["max_position_embeddings"],
        "tie_word_embeddings": False,
        "tokenizer_class": "QWenTokenizer",
        "use_dynamic_ntk": True,
        "use_flash_attn": "auto",
        "use_logn_attn": True,
        "vocab_size": config["vocab_size"],
    }
    return theirs, renamed(fused(tensors), _QWEN)


def qwen_gguf(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """llama.cpp's converter takes Qwen 1's tensors as they are."""
    return fused(tensors)


def with_images(config: dict[str, Any], tensors: Arrays) -> tuple[dict[str, Any], Arrays]:
    """Gemma 3 with its vision tower, as the 4B and larger models are published."""
    vision = {
        "model_type": "siglip_vision_model",
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 8,
        "patch_size": 4,
    }
    both = {
        "model_type": "gemma3",
        "architectures": ["Gemma3ForConditionalGeneration"],
        "eos_token_id": [1, 106],
        "image_token_index": 262144,
        "mm_tokens_per_image": 4,
        "text_config": config,
        "vision_config": vision,
    }
    shapes: dict[str, tuple[int, ...]] = {
        "embeddings.patch_embedding.weight": (16, 3, 4, 4),
        "embeddings.patch_embedding.bias": (16,),
        "embeddings.position_embedding.weight": (4, 16),
        "encoder.layers.0.mlp.fc1.weight": (24, 16),
        "encoder.layers.0.mlp.fc1.bias": (24,),
        "encoder.layers.0.mlp.fc2.weight": (16, 24),
        "encoder.layers.0.mlp.fc2.bias": (16,),
    }
    for norm in ("encoder.layers.0.layer_norm1", "encoder.layers.0.layer_norm2", "post_layernorm"):
        shapes |= {f"{norm}.weight": (16,), f"{norm}.bias": (16,)}
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        at = f"encoder.layers.0.self_attn.{name}"
        shapes |= {f"{at}.weight": (16, 16), f"{at}.bias": (16,)}
    projector = {"mm_soft_emb_norm.weight": (16,)}
    projector |= {"mm_input_projection_weight": (16, config["hidden_size"])}
    shapes = {f"vision_tower.vision_model.{name}": shape for name, shape in shapes.items()}
    shapes |= {f"multi_modal_projector.{name}": shape for name, shape in projector.items()}
    more = {name: np.ones(shape, np.float32) for name, shape in shapes.items()}
    return both, {f"language_model.{n}": a for n, a in tensors.items()} | more


_MHA = {"num_key_value_heads": 4}
_QUARTER = rope("default", partial_rotary_factor=0.25)

ARCHS: tuple[Arch, ...] = (
    Arch("chatglm", GLM, configured(CGLM, head_dim=16), disk=chatglm),
    Arch(
        "chatglm-ratio",
        GLM,
        configured(
            CGLM,
            head_dim=32,
            num_key_value_heads=1,
            rope_parameters=rope("default", 5e6, partial_rotary_factor=0.5),
        ),
        disk=chatglm,
    ),
    Arch("phi-msft", P, configured(CP, **_MHA), disk=phi_msft),
    Arch("mixformer", P, configured(CP, **_MHA, rope_parameters=_QUARTER), disk=mixformer),
    Arch(
        "qwen1",
        transformers.Qwen2ForCausalLM,
        configured(transformers.Qwen2Config, num_key_value_heads=4),
        gguf.MODEL_ARCH.QWEN,
        qwen_gguf,
        {"feed_forward_length": 192, "attention.head_count_kv": None},
        disk=qwen,
    ),
    Arch(
        "qwen1-narrow",
        transformers.Qwen2ForCausalLM,
        configured(transformers.Qwen2Config, num_attention_heads=8, num_key_value_heads=8),
        disk=qwen,
    ),
    Arch(
        "gemma3-with-images",
        transformers.Gemma3ForCausalLM,
        configured(
            transformers.Gemma3TextConfig,
            head_dim=16,
            query_pre_attn_scalar=16,
            sliding_window=24,
            num_hidden_layers=6,
            layer_types=["sliding_attention", "full_attention"] * 3,
        ),
        disk=with_images,
    ),
)
