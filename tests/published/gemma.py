"""Gemma 1 to 4."""

from __future__ import annotations

from typing import Any

from tests.published.row import INERT, Published, decoder

_SOFT_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_TYPES = ["sliding_attention"] * 5 + ["full_attention"]
# The text half of the fourth: what all sizes say.
_FOURTH: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "global_head_dim": 512,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "initializer_range": 0.02,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {
        "full_attention": {
            "partial_rotary_factor": 0.25,
            "rope_theta": 1000000.0,
            "rope_type": "proportional",
        },
        "sliding_attention": {"rope_theta": 10000.0, "rope_type": "default"},
    },
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size_per_layer_input": 262144,
}
_LARGE: dict[str, Any] = {  # no inputs of layers, keys that are values
    **_FOURTH,
    "attention_k_eq_v": True,
    "hidden_size_per_layer_input": 0,
    "max_position_embeddings": 262144,
    "num_kv_shared_layers": 0,
    "sliding_window": 1024,
    "use_bidirectional_attention": "vision",
    "use_double_wide_mlp": False,
}

PUBLISHED: tuple[Published, ...] = (
    Published(
        "google/gemma-7b",
        decoder(
            "gemma", 256000, 3072, 24576, 28, 16, 16, head_dim=256, max_position_embeddings=8192
        ),
        billions=8.54,
    ),
    Published(
        "google/gemma-2b",
        decoder(
            "gemma", 256000, 2048, 16384, 18, 8, 1, **INERT, attention_bias=False, head_dim=256,
            hidden_act="gelu", hidden_activation=None, max_position_embeddings=8192,
            rms_norm_eps=1e-6, rope_scaling=None, rope_theta=10000.0,
        ),
        parameters=2_506_172_416,
    ),
    Published(
        "google/gemma-2-9b",
        decoder(
            "gemma2", 256000, 3584, 14336, 42, 16, 8, head_dim=256, query_pre_attn_scalar=256,
            sliding_window=4096, max_position_embeddings=8192, **_SOFT_CAPS,
        ),
        billions=9.24,
    ),
    Published(
        "google/gemma-2-2b",
        decoder(
            "gemma2", 256000, 2304, 9216, 26, 8, 4, **INERT, **_SOFT_CAPS, attention_bias=False,
            cache_implementation="hybrid", head_dim=256, hidden_act="gelu_pytorch_tanh",
            hidden_activation="gelu_pytorch_tanh", max_position_embeddings=8192,
            query_pre_attn_scalar=256, rms_norm_eps=1e-6, rope_theta=10000.0, sliding_window=4096,
        ),
        parameters=2_614_341_888,
    ),
    Published(
        "google/gemma-3-1b-pt",
        decoder(
            "gemma3_text", 262144, 1152, 6912, 26, 4, 1, head_dim=256, query_pre_attn_scalar=256,
            sliding_window=512, sliding_window_pattern=6, rope_theta=1e6,
            rope_local_base_freq=10000.0, max_position_embeddings=32768,
        ),
        billions=1.00,
    ),
    Published(
        "google/gemma-3-270m",
        decoder(
            "gemma3_text", 262144, 640, 2048, 18, 4, 1, **INERT, _sliding_window_pattern=6,
            attention_bias=False, attn_logit_softcapping=None, final_logit_softcapping=None,
            head_dim=256, hidden_activation="gelu_pytorch_tanh", layer_types=_TYPES * 3,
            max_position_embeddings=32768, query_pre_attn_scalar=256, rms_norm_eps=1e-6,
            rope_local_base_freq=10000.0, rope_scaling=None, rope_theta=1000000.0,
            sliding_window=512, use_bidirectional_attention=False,
        ),
        parameters=268_098_176,
    ),
    Published(
        "google/gemma-4-26B-A4B",
        decoder(
            "gemma4_text", 262144, 2816, 2112, 30, 16, 8, **_LARGE, num_global_key_value_heads=2,
            layer_types=_TYPES * 5, enable_moe_block=True, num_experts=128, top_k_experts=8,
            moe_intermediate_size=704,
        ),
        billions=25.2,
    ),
    Published(
        "google/gemma-4-31B",
        decoder(
            "gemma4_text", 262144, 5376, 21504, 60, 32, 16, **_LARGE,
            num_global_key_value_heads=4, layer_types=_TYPES * 10, enable_moe_block=False,
            num_experts=None, top_k_experts=None, moe_intermediate_size=None,
        ),
        billions=30.7,
    ),
    # The 5.1 billion that its page states are with what sees and hears.
    Published(
        "google/gemma-4-E2B",
        decoder(
            "gemma4_text", 262144, 1536, 6144, 35, 8, 1, **_FOURTH, attention_k_eq_v=False,
            enable_moe_block=False, hidden_size_per_layer_input=256,
            layer_types=(_TYPES[1:]) * 7, max_position_embeddings=131072,
            num_global_key_value_heads=None, num_kv_shared_layers=20, sliding_window=512,
            use_bidirectional_attention=None, use_double_wide_mlp=True,
        ),
    ),
)  # fmt: skip
