"""RWKV 5, 6 and 7. Sizes: tables of the papers (Peng et al. 2024, 2025)."""

from __future__ import annotations

from typing import Any

from tests.published.row import UNTIED, Published


def _world(model_type: str, width: int, layers: int) -> dict[str, Any]:
    """config.json in the repositories RWKV/rwkv-5-world-* and RWKV/rwkv-6-world-*."""
    name = f"R{model_type[1:]}ForCausalLM"
    return {
        "model_type": model_type,
        "architectures": [name],
        "attention_hidden_size": width,
        "bos_token_id": 0,
        "eos_token_id": 0,
        "head_size": 64,
        "head_size_divisor": 8,
        "hidden_size": width,
        "intermediate_size": None,
        "layer_norm_epsilon": 1e-5,
        "num_attention_heads": 64,
        "num_hidden_layers": layers,
        "rescale_every": 6,
        "torch_dtype": "float32",
        "use_cache": True,
        "vocab_size": 65536,
        **UNTIED,
    }


def _goose(width: int, layers: int, decay: int, values: int, gate: int) -> dict[str, Any]:
    """config.json in the repositories fla-hub/rwkv7-*."""
    return {
        "model_type": "rwkv7",
        "architectures": ["RWKV7ForCausalLM"],
        "a_low_rank_dim": decay,
        "attn": None,
        "attn_mode": "chunk",
        "bos_token_id": 1,
        "decay_low_rank_dim": decay,
        "eos_token_id": 2,
        "fuse_cross_entropy": True,
        "fuse_norm": False,
        "gate_low_rank_dim": gate,
        "head_dim": 64,
        "hidden_act": "sqrelu",
        "hidden_ratio": 4.0,
        "hidden_size": width,
        "initializer_range": 0.006,
        "intermediate_size": 4 * width,
        "max_position_embeddings": 2048,
        "norm_bias": True,
        "norm_eps": 1e-5,
        "norm_first": True,
        "num_heads": width // 64,
        "num_hidden_layers": layers,
        "use_cache": True,
        "v_low_rank_dim": values,
        "value_dim": [width] * layers,
        "vocab_size": 65536,
        **UNTIED,
    }


PUBLISHED: tuple[Published, ...] = (
    Published("RWKV/rwkv-5-world-1b5", _world("rwkv5", 2048, 24), billions=1.58),
    Published("RWKV/v5-Eagle-7B-HF", _world("rwkv5", 4096, 32), billions=7.52),
    Published("RWKV/rwkv-6-world-1b6", _world("rwkv6", 2048, 24), billions=1.60),
    Published("RWKV/rwkv-6-world-3b", _world("rwkv6", 2560, 32), billions=3.10),
    Published("fla-hub/rwkv7-191M-world", _goose(768, 12, 64, 32, 128), parameters=191_034_624),
    Published("fla-hub/rwkv7-2.9B-world", _goose(2560, 32, 96, 64, 320), parameters=2_947_735_040),
)
