"""Families of recurrent layers: Mamba, Falcon-Mamba, Mamba 2 and Based."""

from __future__ import annotations

import math
from typing import Any

from tests.published.row import UNTIED, Published

# How weights began, and what training needed.
_BEGAN: dict[str, Any] = {
    "initializer_range": 0.1,
    "rescale_prenorm_residual": False,
    "time_step_floor": 0.0001,
    "time_step_init_scheme": "random",
    "time_step_max": 0.1,
    "time_step_min": 0.001,
    "time_step_scale": 1.0,
    "use_cache": True,
}
_SELECTIVE: dict[str, Any] = {
    "bos_token_id": 0,
    "conv_kernel": 4,
    "hidden_act": "silu",
    "layer_norm_epsilon": 1e-5,
    "residual_in_fp32": True,
    "state_size": 16,
    "use_bias": False,
    "use_conv_bias": True,
}


def _based(width: int, layers: int, linear: list[int], windows: list[int]) -> dict[str, Any]:
    """config.json in hazyresearch/based-*, as the training configs of github.com/HazyResearch/based
    and GPT-2's class make it; those files say gpt2 for the type."""
    mixers = "based.models.mixers"
    off = dict.fromkeys(
        (
            *("mlp_fc1_bias", "mlp_fc2_bias", "out_proj_bias", "qkv_proj_bias", "fused_mlp"),
            *("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"),
        ),
        False,
    )
    on = dict.fromkeys(
        (
            *("rms_norm", "residual_in_fp32", "fused_bias_fc", "fused_dropout_add_ln"),
            *("special_initializer", "use_flash_attn", "scale_attn_weights"),
        ),
        True,
    )
    return {
        "model_type": "based",
        "activation_function": "swiglu",
        "alt_mixer": {
            "_target_": f"{mixers}.linear_attention.LinearAttention",
            "feature_dim": 16,
            "feature_map": {"_target_": f"{mixers}.linear_attention.TaylorExp", "input_dim": 16},
            "l_max": 2048,
            "num_heads": 16,
            "parallel_implementation": "fla_parallel",
        },
        "alt_mixer_2": {
            "_target_": f"{mixers}.slide_attention.SlidingAttention",
            "causal": True,
            "num_heads": 16,
            "window_size": 256,
        },
        "alt_mixer_2_layers": windows,
        "alt_mixer_layers": linear,
        "bos_token_id": 50256,
        "eos_token_id": 50256,
        "layer_norm_epsilon": 1e-5,
        "mixer": {
            "_target_": f"{mixers}.convolution.BaseConv",
            "expand_proj": 4,
            "kernel_sizes": 3,
            "l_max": 2048,
            "use_bias": True,
        },
        "n_embd": width,
        "n_head": 16,
        "n_inner": 2 * width,
        "n_layer": layers,
        "n_positions": 0,
        "pad_vocab_size_multiple": 8,
        "rotary_emb_fraction": 1,
        "summary_type": "cls_index",
        "vocab_size": 50257,
        **on,
        **off,
    }


PUBLISHED: tuple[Published, ...] = (
    # Their page says 360m and 1.4b, which have fewer than three digits.
    Published(
        "hazyresearch/based-360m",
        _based(1024, 27, [1, 6, 11, 16, 21], [2, 7, 12, 17, 22]),
    ),
    Published(
        "hazyresearch/based-1b-50b",
        _based(1792, 36, [1, 6, 11, 16, 21, 27, 33], [2, 7, 12, 17, 22, 28, 34]),
    ),
    Published(
        "state-spaces/mamba-130m-hf",
        {
            "model_type": "mamba",
            "architectures": ["MambaForCausalLM"],
            **_BEGAN,
            **_SELECTIVE,
            "d_inner": 1536,
            "d_model": 768,
            "eos_token_id": 0,
            "expand": 2,
            "fused_add_norm": True,
            "hidden_size": 768,
            "intermediate_size": 1536,
            "n_layer": 24,
            "num_hidden_layers": 24,
            "pad_token_id": 0,
            "pad_vocab_size_multiple": 8,
            "rms_norm": True,
            "ssm_cfg": {},
            "time_step_rank": 48,
            "torch_dtype": "float32",
            "vocab_size": 50280,
        },
        parameters=129_135_360,
    ),
    Published(
        "state-spaces/mamba-2.8b-hf",
        {
            "model_type": "mamba",
            **_SELECTIVE,
            "hidden_size": 2560,
            "num_hidden_layers": 64,
            "vocab_size": 50280,
        },
        billions=2.77,
    ),
    # expand is not that of its weights: what counts is intermediate_size.
    Published(
        "tiiuae/falcon-mamba-7b",
        {
            "model_type": "falcon_mamba",
            "architectures": ["FalconMambaForCausalLM"],
            **_BEGAN,
            **_SELECTIVE,
            "eos_token_id": 11,
            "expand": 16,
            "hidden_size": 4096,
            "intermediate_size": 8192,
            "num_hidden_layers": 64,
            "pad_token_id": 11,
            "time_step_rank": 256,
            "torch_dtype": "bfloat16",
            "vocab_size": 65024,
            **UNTIED,
        },
        billions=7.27,
    ),
    Published(
        "mistralai/Mamba-Codestral-7B-v0.1",
        {
            "model_type": "mamba2",
            "architectures": ["Mamba2ForCausalLM"],
            **{k: v for k, v in _BEGAN.items() if k not in ("time_step_init_scheme",)},
            **_SELECTIVE,
            "chunk_size": 256,
            "eos_token_id": 0,
            "expand": 2,
            "head_dim": 64,
            "hidden_size": 4096,
            "intermediate_size": 8192,
            "n_groups": 8,
            "norm_before_gate": True,
            "num_heads": 128,
            "num_hidden_layers": 64,
            "pad_token_id": 0,
            "rms_norm": True,
            "state_size": 128,
            "time_step_limit": [0.0, math.inf],
            "time_step_rank": 256,
            "torch_dtype": "bfloat16",
            "vocab_size": 32768,
            **UNTIED,
        },
        billions=7.29,
    ),
    Published(
        "AntonV/mamba2-780m-hf",
        {
            "model_type": "mamba2",
            **_SELECTIVE,
            "chunk_size": 256,
            "expand": 2,
            "head_dim": 64,
            "hidden_size": 1536,
            "n_groups": 1,
            "num_heads": 48,
            "num_hidden_layers": 48,
            "rms_norm": True,
            "state_size": 128,
            "time_step_limit": [0.0, {"__float__": "Infinity"}],
            "tie_word_embeddings": True,
            "vocab_size": 50288,
        },
        billions=0.780,
    ),
)
