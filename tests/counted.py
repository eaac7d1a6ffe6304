"""The config.json of one well-known checkpoint a family, written down from public facts.

Keys that change neither a shape nor a number of a forward pass are left out. `billions` is the
count that the checkpoint's page gives, or the one that follows from its paper's table of sizes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Counted:
    """checkpoint: on the Hugging Face hub. billions: of parameters, to the digits given (None:
    nobody states it)."""

    checkpoint: str
    billions: float | None
    config: dict[str, Any] = field(default_factory=dict)


def _sizes(
    vocab: int, dim: int, inner: int, layers: int, heads: int, kv: int | None = None, **more: Any
) -> dict[str, Any]:
    """The keys that most configs have."""
    keys = {
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
    }
    return keys | ({} if kv is None else {"num_key_value_heads": kv}) | more


_LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
_GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0078125,
    "logits_scaling": 16.0,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
}
_SOFT_CAPS = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
_UNTIED = {"tie_word_embeddings": False}

# One row at least for every model_type of `rbee_worker.models.ARCHITECTURES`.
COUNTED: dict[str, Counted] = {
    "llama": Counted(
        "meta-llama/Llama-3.1-8B",
        8.03,
        _sizes(
            128256, 4096, 14336, 32, 32, 8, max_position_embeddings=131072, rope_theta=500000.0,
            rms_norm_eps=1e-5, rope_scaling=_LLAMA3, **_UNTIED,
        ),
    ),
    "mistral": Counted(
        "mistralai/Mistral-7B-v0.1",
        7.24,
        _sizes(
            32000, 4096, 14336, 32, 32, 8, max_position_embeddings=32768, sliding_window=4096,
            rms_norm_eps=1e-5, **_UNTIED,
        ),
    ),
    "qwen2": Counted(
        "Qwen/Qwen2.5-7B",
        7.62,
        _sizes(
            152064, 3584, 18944, 28, 28, 4, max_position_embeddings=131072, rope_theta=1e6,
            use_sliding_window=False, sliding_window=131072, max_window_layers=28, **_UNTIED,
        ),
    ),
    "qwen3": Counted(
        "Qwen/Qwen3-8B",
        8.19,
        _sizes(
            151936, 4096, 12288, 36, 32, 8, head_dim=128, max_position_embeddings=40960,
            rope_theta=1e6, attention_bias=False, **_UNTIED,
        ),
    ),
    "mixtral": Counted(
        "mistralai/Mixtral-8x7B-v0.1",
        46.7,
        _sizes(
            32000, 4096, 14336, 32, 32, 8, max_position_embeddings=32768, rope_theta=1e6,
            num_local_experts=8, num_experts_per_tok=2, rms_norm_eps=1e-5, **_UNTIED,
        ),
    ),
    "qwen2_moe": Counted(
        "Qwen/Qwen1.5-MoE-A2.7B",
        14.3,
        _sizes(
            151936, 2048, 5632, 24, 16, 16, moe_intermediate_size=1408, num_experts=60,
            num_experts_per_tok=4, shared_expert_intermediate_size=5632, rope_theta=1e6,
            max_position_embeddings=8192, norm_topk_prob=False, **_UNTIED,
        ),
    ),
    "qwen3_moe": Counted(
        "Qwen/Qwen3-30B-A3B",
        30.5,
        _sizes(
            151936, 2048, 6144, 48, 32, 4, head_dim=128, moe_intermediate_size=768,
            num_experts=128, num_experts_per_tok=8, norm_topk_prob=True, rope_theta=1e6,
            max_position_embeddings=40960, **_UNTIED,
        ),
    ),
    "smollm3": Counted(
        "HuggingFaceTB/SmolLM3-3B",
        3.08,
        _sizes(
            128256, 2048, 11008, 36, 16, 4, rope_theta=5e6, max_position_embeddings=65536,
            no_rope_layer_interval=4, tie_word_embeddings=True,
        ),
    ),
    "granite": Counted(
        "ibm-granite/granite-3.0-8b-instruct",
        8.17,
        _sizes(49155, 4096, 12800, 40, 32, 8, max_position_embeddings=4096, **_GRANITE),
    ),
    "granitemoe": Counted(
        "ibm-granite/granite-3.0-1b-a400m-instruct",
        1.33,
        _sizes(
            49155, 1024, 512, 24, 16, 8, num_local_experts=32, num_experts_per_tok=8,
            max_position_embeddings=4096,
            **{**_GRANITE, "attention_multiplier": 0.015625, "logits_scaling": 6.0},
        ),
    ),
    # The one checkpoint of this type is a research preview of which no sizes are stated: these
    # are Granite 3.0 1B's, with a shared expert.
    "granitemoeshared": Counted(
        "sizes of ibm-granite/granite-3.0-1b-a400m-instruct and a shared expert",
        None,
        _sizes(
            49155, 1024, 512, 24, 16, 8, num_local_experts=32, num_experts_per_tok=8,
            shared_intermediate_size=1024, max_position_embeddings=4096, **_GRANITE,
        ),
    ),
    "helium": Counted(
        "kyutai/helium-1-preview-2b",
        2.17,
        _sizes(
            48000, 2560, 7040, 24, 20, 20, head_dim=128, max_position_embeddings=4096,
            rope_theta=100000.0, rms_norm_eps=1e-8, **_UNTIED,
        ),
    ),
    "gemma": Counted(
        "google/gemma-7b",
        8.54,
        _sizes(256000, 3072, 24576, 28, 16, 16, head_dim=256, max_position_embeddings=8192),
    ),
    "gemma2": Counted(
        "google/gemma-2-9b",
        9.24,
        _sizes(
            256000, 3584, 14336, 42, 16, 8, head_dim=256, query_pre_attn_scalar=256,
            sliding_window=4096, max_position_embeddings=8192, **_SOFT_CAPS,
        ),
    ),
    "gemma3_text": Counted(
        "google/gemma-3-1b-pt",
        1.00,
        _sizes(
            262144, 1152, 6912, 26, 4, 1, head_dim=256, query_pre_attn_scalar=256,
            sliding_window=512, sliding_window_pattern=6, rope_theta=1e6,
            rope_local_base_freq=10000.0, max_position_embeddings=32768,
        ),
    ),
    "phi": Counted(
        "microsoft/phi-2",
        2.78,
        _sizes(
            51200, 2560, 10240, 32, 32, 32, partial_rotary_factor=0.4, hidden_act="gelu_new",
            max_position_embeddings=2048, qk_layernorm=False, **_UNTIED,
        ),
    ),
    "phi3": Counted(
        "microsoft/Phi-3-mini-4k-instruct",
        3.82,
        _sizes(
            32064, 3072, 8192, 32, 32, 32, max_position_embeddings=4096, sliding_window=2047,
            original_max_position_embeddings=4096, rms_norm_eps=1e-5, **_UNTIED,
        ),
    ),
    "phimoe": Counted(
        "microsoft/Phi-3.5-MoE-instruct",
        41.9,
        _sizes(
            32064, 4096, 6400, 32, 32, 8, num_local_experts=16, num_experts_per_tok=2,
            attention_bias=True, lm_head_bias=True, max_position_embeddings=131072,
            original_max_position_embeddings=4096, sliding_window=131072, **_UNTIED,
        ),
    ),
    "glm": Counted(
        "zai-org/glm-4-9b-chat-hf",
        9.40,
        _sizes(
            151552, 4096, 13696, 40, 32, 2, head_dim=128, attention_bias=True,
            partial_rotary_factor=0.5, max_position_embeddings=131072, **_UNTIED,
        ),
    ),
    "glm4": Counted(
        "zai-org/GLM-4-9B-0414",
        9.40,
        _sizes(
            151552, 4096, 13696, 40, 32, 2, head_dim=128, attention_bias=True,
            partial_rotary_factor=0.5, max_position_embeddings=32768, **_UNTIED,
        ),
    ),
    "olmo": Counted(
        "allenai/OLMo-7B-hf",
        6.89,
        _sizes(50304, 4096, 11008, 32, 32, 32, max_position_embeddings=2048, **_UNTIED),
    ),
    "olmo2": Counted(
        "allenai/OLMo-2-1124-7B",
        7.30,
        _sizes(
            100352, 4096, 11008, 32, 32, 32, rope_theta=500000.0, max_position_embeddings=4096,
            **_UNTIED,
        ),
    ),
    "olmo3": Counted(
        "allenai/Olmo-3-1025-7B",
        7.30,
        _sizes(
            100278, 4096, 11008, 32, 32, 32, rope_theta=500000.0, sliding_window=4096,
            max_position_embeddings=65536, **_UNTIED,
        ),
    ),
    "stablelm": Counted(
        "stabilityai/stablelm-2-1_6b",
        1.64,
        _sizes(
            100352, 2048, 5632, 24, 32, 32, use_qkv_bias=True, partial_rotary_factor=0.25,
            max_position_embeddings=4096, layer_norm_eps=1e-5, **_UNTIED,
        ),
    ),
    "starcoder2": Counted(
        "bigcode/starcoder2-3b",
        3.03,
        _sizes(
            49152, 3072, 12288, 30, 24, 2, sliding_window=4096, rope_theta=999999.4420358813,
            max_position_embeddings=16384, use_bias=True, tie_word_embeddings=True,
        ),
    ),
    "cohere": Counted(
        "CohereLabs/c4ai-command-r-v01",
        35.0,
        _sizes(
            256000, 8192, 22528, 40, 64, 64, logit_scale=0.0625, rope_theta=8e6,
            max_position_embeddings=8192, use_qk_norm=False,
        ),
    ),
    "falcon": Counted(
        "tiiuae/falcon-7b",
        6.92,
        {
            "vocab_size": 65024,
            "hidden_size": 4544,
            "num_hidden_layers": 32,
            "num_attention_heads": 71,
            "multi_query": True,
            "parallel_attn": True,
            "new_decoder_architecture": False,
            "alibi": False,
            "bias": False,
        },
    ),
    "mpt": Counted(
        "mosaicml/mpt-7b",
        6.65,
        {
            "vocab_size": 50432,
            "d_model": 4096,
            "n_heads": 32,
            "n_layers": 32,
            "expansion_ratio": 4,
            "max_seq_len": 2048,
            "no_bias": True,
            "attn_config": {"alibi": True, "alibi_bias_max": 8, "clip_qkv": None},
        },
    ),
    "gpt_bigcode": Counted(
        "bigcode/starcoder",
        15.5,
        {
            "vocab_size": 49152,
            "n_embd": 6144,
            "n_layer": 40,
            "n_head": 48,
            "n_inner": 24576,
            "n_positions": 8192,
            "multi_query": True,
            "activation_function": "gelu",
        },
    ),
    "persimmon": Counted(
        "adept/persimmon-8b-base",
        9.40,  # 8 billion and the embeddings of a vocabulary that is mostly unused
        _sizes(
            262144, 4096, 16384, 36, 64, max_position_embeddings=16384, rope_theta=25000.0,
            qk_layernorm=True, partial_rotary_factor=0.5, hidden_act="relu2", **_UNTIED,
        ),
    ),
}  # fmt: skip
