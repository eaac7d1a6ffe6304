"""The shapes of published models, for `bench --random`.

Only the config keys that affect speed; values are those of the models' own files on the hub.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Shape = Mapping[str, Any]

_LLAMA3 = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "max_position_embeddings": 131072,
    "num_key_value_heads": 8,
}


def _stretched(factor: float) -> Shape:
    """Llama 3's scaling of rotary positions, by `factor`."""
    return {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    }


SHAPES: Mapping[str, Shape] = {
    "smollm2-135m": {
        "model_type": "llama",
        "vocab_size": 49152,
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "max_position_embeddings": 8192,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000.0,
        "tie_word_embeddings": True,
    },
    "llama-1b": {  # Llama 3.2
        **_LLAMA3,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "head_dim": 64,
        "tie_word_embeddings": True,
        "rope_scaling": _stretched(32.0),
    },
    "llama-3b": {  # Llama 3.2
        **_LLAMA3,
        "hidden_size": 3072,
        "intermediate_size": 8192,
        "num_hidden_layers": 28,
        "num_attention_heads": 24,
        "head_dim": 128,
        "tie_word_embeddings": True,
        "rope_scaling": _stretched(32.0),
    },
    "llama-8b": {  # Llama 3.1
        **_LLAMA3,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "rope_scaling": _stretched(8.0),
    },
    "llama-70b": {  # Llama 3.1
        **_LLAMA3,
        "hidden_size": 8192,
        "intermediate_size": 28672,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "rope_scaling": _stretched(8.0),
    },
    "qwen3-30b-a3b": {
        "model_type": "qwen3_moe",
        "vocab_size": 151936,
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "moe_intermediate_size": 768,
        "num_hidden_layers": 48,
        "num_attention_heads": 32,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "norm_topk_prob": True,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "rms_norm_eps": 1e-6,
        "rope_theta": 1000000.0,
        "max_position_embeddings": 40960,
    },
    "mamba-130m": {
        "model_type": "mamba",
        "vocab_size": 50280,
        "hidden_size": 768,
        "num_hidden_layers": 24,
    },
    "mamba2-780m": {
        "model_type": "mamba2",
        "vocab_size": 50288,
        "hidden_size": 1536,
        "num_hidden_layers": 48,
        "num_heads": 48,
        "n_groups": 1,
        "tie_word_embeddings": True,
    },
    "rwkv6-1.6b": {
        "model_type": "rwkv6",
        "vocab_size": 65536,
        "hidden_size": 2048,
        "num_hidden_layers": 24,
    },
    "rwkv7-191m": {
        "model_type": "rwkv7",
        "vocab_size": 65536,
        "hidden_size": 768,
        "num_hidden_layers": 12,
        "v_low_rank_dim": 32,
    },
    "based-360m": {
        "model_type": "based",
        "vocab_size": 50257,
        "pad_vocab_size_multiple": 8,
        "hidden_size": 1024,
        "intermediate_size": 2048,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "partial_rotary_factor": 1.0,
        "alt_mixer_layers": [1, 6, 11, 16, 21],
        "alt_mixer_2_layers": [2, 7, 12, 17, 22],
        "mixer": {"expand_proj": 4},
        "alt_mixer": {"num_heads": 16, "feature_dim": 16},
        "alt_mixer_2": {"window_size": 256},
    },
    "granite4-h-1b": {
        "model_type": "granitemoehybrid",
        "vocab_size": 100352,
        "hidden_size": 1536,
        "intermediate_size": 4096,
        "shared_intermediate_size": 4096,
        "num_hidden_layers": 40,
        "layer_types": ["attention" if n % 10 == 5 else "mamba" for n in range(40)],
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
        "num_local_experts": 0,
        "mamba_n_heads": 48,
        "mamba_d_state": 128,
        "attention_multiplier": 0.0078125,
        "embedding_multiplier": 12.0,
        "residual_multiplier": 0.22,
        "logits_scaling": 6.0,
        "max_position_embeddings": 131072,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
    },
    "lfm2-1.2b": {
        "model_type": "lfm2",
        "vocab_size": 65536,
        "hidden_size": 2048,
        "intermediate_size": 12288,
        "num_hidden_layers": 16,
        "full_attn_idxs": [2, 5, 8, 10, 12, 14],
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 128000,
    },
}
