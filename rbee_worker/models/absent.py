"""What the absence of a key in a config means, where it differs between the users of one `Config`.

Values are those of transformers' config classes. Traits of a whole family that no key names stand
here as well: `qkv_bias`, `qk_norm`, `rope_pairs`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Absent = Mapping[str, Any]

MISTRAL: Absent = {"num_key_value_heads": 8}
_QWEN = {"sliding_window": 4096, "use_sliding_window": False, "max_window_layers": 28}
QWEN2: Absent = _QWEN | {"qkv_bias": True}
QWEN3: Absent = _QWEN | {"qk_norm": True, "head_dim": 128}
SMOLLM3: Absent = {
    "use_sliding_window": False,
    "no_rope_layer_interval": 4,
    "rope_theta": 2e6,
    "tie_word_embeddings": True,
}
MIXTRAL: Absent = {"num_key_value_heads": 8, "rope_theta": 1e6, "rms_norm_eps": 1e-5}
QWEN2_MOE: Absent = QWEN2
QWEN3_MOE: Absent = _QWEN | {"qk_norm": True, "max_window_layers": 0}
GRANITE: Absent = {"attention_multiplier": 1.0}
HELIUM: Absent = {"rope_pairs": True, "rope_theta": 1e5, "head_dim": 128, "rms_norm_eps": 1e-8}

_GEMMA = {"hidden_act": "gelu_pytorch_tanh", "head_dim": 256, "tie_word_embeddings": True}
GEMMA: Absent = _GEMMA
_WINDOWS = _GEMMA | {"sliding_window": 4096, "query_pre_attn_scalar": 256.0}
GEMMA2: Absent = _WINDOWS | {
    "sliding_window_pattern": 2,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
}
GEMMA3: Absent = _WINDOWS | {
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 131072,
    "sliding_window_pattern": 6,
    "rope_theta": 1e6,
    "rope_local_base_freq": 1e4,
    "qk_norm": True,
}

PHI: Absent = {"hidden_act": "gelu_new", "partial_rotary_factor": 0.5}
PHIMOE: Absent = {
    "rope_theta": 1e6,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
}
GLM: Absent = {
    "head_dim": 128,
    "num_key_value_heads": 2,
    "max_position_embeddings": 131072,
    "partial_rotary_factor": 0.5,
}
OLMO3: Absent = {"sliding_window": 4096, "sliding_window_pattern": 4, "rope_theta": 5e5}
STABLELM: Absent = {"partial_rotary_factor": 0.25, "max_position_embeddings": 4096}
STARCODER2: Absent = {
    "hidden_act": "gelu_pytorch_tanh",
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}
COHERE: Absent = {"rope_theta": 5e5, "tie_word_embeddings": True}
PERSIMMON: Absent = {"hidden_act": "relu2", "partial_rotary_factor": 0.5, "qk_layernorm": True}
FALCON: Absent = {"hidden_act": "gelu", "tie_word_embeddings": True}
MPT: Absent = {"hidden_act": "gelu", "tie_word_embeddings": True}
BIGCODE: Absent = {
    "hidden_act": "gelu_pytorch_tanh",
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
DEEPSEEK_V3: Absent = {"scoring_func": "sigmoid"}
GPT_OSS: Absent = {"rope_theta": 1.5e5, "sliding_window": 128, "head_dim": 64}
LLAMA4: Absent = {
    "rope_theta": 5e5,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "attention_chunk_size": 8192,
}
GEMMA4: Absent = {
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": True,
}
