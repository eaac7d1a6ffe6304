"""Models in Llama's shape: Llama, Mistral, Qwen, SmolLM3, Granite, Helium, Hunyuan,
Seed-OSS, Arcee."""

from __future__ import annotations

from typing import Any

from tests.published.row import INERT, UNTIED, Published, decoder

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
GRANITE = {
    "embedding_multiplier": 12.0,
    "residual_multiplier": 0.22,
    "attention_multiplier": 0.0078125,
    "logits_scaling": 16.0,
    "tie_word_embeddings": True,
    "rope_theta": 10000.0,
}
_QWEN = {"rms_norm_eps": 1e-6, "use_sliding_window": False, "max_window_layers": 28}

# Of classifying heads, of tokens, and of variants that the family's published models are not.
_HUNYUAN: dict[str, Any] = {
    "add_classification_head": False,
    "attention_bias": False,
    "cla_share_factor": 2,
    "class_num": 0,
    "dense_list": [4096, 0],
    "im_end_id": 5,
    "im_newline_id": 11,
    "im_start_id": 4,
    "mask_init_id": 12,
    "mlp_bias": False,
    "norm_type": "rms",
    "org_vocab_size": 128167,
    "pad_id": 127961,
    "pad_token_id": 127961,
    "pool_type": "last",
    "pretraining_tp": 1,
    "sep_token_id": 127962,
    "text_end_id": 7,
    "text_start_id": 6,
    "use_cla": False,
    "use_qk_norm": True,
    "use_rotary_pos_emb": True,
}

PUBLISHED: tuple[Published, ...] = (
    Published(
        "meta-llama/Llama-3.1-8B",
        decoder(
            "llama", 128256, 4096, 14336, 32, 32, 8, max_position_embeddings=131072,
            rope_theta=500000.0, rms_norm_eps=1e-5, rope_scaling=LLAMA3, **UNTIED,
        ),
        billions=8.03,
    ),
    Published(
        "mistralai/Mistral-7B-v0.1",
        decoder(
            "mistral", 32000, 4096, 14336, 32, 32, 8, max_position_embeddings=32768,
            sliding_window=4096, rms_norm_eps=1e-5, **UNTIED,
        ),
        billions=7.24,
    ),
    Published(
        "Qwen/Qwen2.5-7B",
        decoder(
            "qwen2", 152064, 3584, 18944, 28, 28, 4, max_position_embeddings=131072,
            rope_theta=1e6, use_sliding_window=False, sliding_window=131072, max_window_layers=28,
            **UNTIED,
        ),
        billions=7.62,
    ),
    Published(
        "Qwen/Qwen2.5-7B-Instruct",
        decoder(
            "qwen2", 152064, 3584, 18944, 28, 28, 4, **INERT, **_QWEN, hidden_act="silu",
            max_position_embeddings=32768, rope_theta=1000000.0, sliding_window=131072, **UNTIED,
        ),
        billions=7.62,
        parameters=7_615_616_512,
    ),
    Published(
        "Qwen/Qwen3-8B",
        decoder(
            "qwen3", 151936, 4096, 12288, 36, 32, 8, head_dim=128, max_position_embeddings=40960,
            rope_theta=1e6, attention_bias=False, **UNTIED,
        ),
        billions=8.19,
    ),
    Published(
        "Qwen/Qwen3-0.6B",
        decoder(
            "qwen3", 151936, 1024, 3072, 28, 16, 8, **INERT, **_QWEN, attention_bias=False,
            head_dim=128, hidden_act="silu", max_position_embeddings=40960, rope_scaling=None,
            rope_theta=1000000, sliding_window=None, tie_word_embeddings=True,
        ),
        parameters=596_049_920,
    ),
    Published(
        "HuggingFaceTB/SmolLM3-3B",
        decoder(
            "smollm3", 128256, 2048, 11008, 36, 16, 4, **INERT, attention_bias=False,
            hidden_act="silu", layer_types=["full_attention"] * 36, max_position_embeddings=65536,
            max_window_layers=28, mlp_bias=False, no_rope_layer_interval=4,
            no_rope_layers=[1, 1, 1, 0] * 9, pretraining_tp=2, rms_norm_eps=1e-6,
            rope_scaling=None, rope_theta=5000000.0, sliding_window=None,
            tie_word_embeddings=True, use_sliding_window=False,
        ),
        billions=3.08,
        parameters=3_075_098_624,
    ),
    Published(
        "ibm-granite/granite-3.0-8b-instruct",
        decoder("granite", 49155, 4096, 12800, 40, 32, 8, max_position_embeddings=4096, **GRANITE),
        billions=8.17,
    ),
    Published(
        "kyutai/helium-1-preview-2b",
        decoder(
            "helium", 48000, 2560, 7040, 24, 20, 20, head_dim=128, max_position_embeddings=4096,
            rope_theta=100000.0, rms_norm_eps=1e-8, **UNTIED,
        ),
        billions=2.17,
    ),
    Published(
        "tencent/Hy-MT2-7B",
        decoder(
            "hunyuan_v1_dense", 128167, 4096, 14336, 32, 32, 8, **INERT, **_HUNYUAN,
            attention_head_dim=128, head_dim=128, hidden_act="silu",
            max_position_embeddings=262144, rms_norm_eps=1e-5,
            rope_scaling={
                "alpha": 1000.0, "beta_fast": 32, "beta_slow": 1, "factor": 1.0, "mscale": 1.0,
                "mscale_all_dim": 1.0, "type": "dynamic",
            },
            rope_theta=10000.0, tie_word_embeddings=True,
        ),
        billions=7.50,
    ),
    Published(
        "ByteDance-Seed/Seed-OSS-36B-Instruct",
        decoder(
            "seed_oss", 155136, 5120, 27648, 64, 80, 8, **INERT, attention_bias=True,
            attention_out_bias=False, head_dim=128, hidden_act="silu",
            max_position_embeddings=524288, mlp_bias=False, pad_token_id=1,
            residual_dropout=0.1, rms_norm_eps=1e-6, rope_scaling={"rope_type": "default"},
            rope_theta=10000000.0, **UNTIED,
        ),
        billions=36.2,
    ),
    Published(
        "Delta-Vector/Austral-AFM-SFT",  # of AFM-4.5B
        decoder(
            "arcee", 128005, 2560, 18432, 36, 20, 4, **INERT, attention_bias=False, head_dim=128,
            hidden_act="relu2", max_position_embeddings=65536, mlp_bias=False, rms_norm_eps=1e-5,
            rope_scaling={
                "beta_fast": 32.0, "beta_slow": 1.0, "factor": 20.0, "mscale": 1.0,
                "original_max_position_embeddings": 4096, "rope_type": "yarn", "type": "yarn",
            },
            rope_theta=10000.0, **UNTIED,
        ),
        billions=4.62,
    ),
)  # fmt: skip
