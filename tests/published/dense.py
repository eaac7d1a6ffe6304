"""Families with norms, biases or rotations of their own: Phi, GLM, OLMo, StableLM, StarCoder2,
Nemotron, EXAONE 4, Cohere, Persimmon."""

from __future__ import annotations

from tests.published.row import INERT, UNTIED, Published, decoder

PUBLISHED: tuple[Published, ...] = (
    Published(
        "microsoft/phi-2",
        decoder(
            "phi", 51200, 2560, 10240, 32, 32, 32, **INERT, embd_pdrop=0.0, hidden_act="gelu_new",
            layer_norm_eps=1e-5, max_position_embeddings=2048, partial_rotary_factor=0.4,
            qk_layernorm=False, resid_pdrop=0.1, rope_scaling=None, rope_theta=10000.0, **UNTIED,
        ),
        billions=2.78,
        parameters=2_779_683_840,
    ),
    Published(
        "microsoft/Phi-3-mini-4k-instruct",
        decoder(
            "phi3", 32064, 3072, 8192, 32, 32, 32, max_position_embeddings=4096,
            sliding_window=2047, original_max_position_embeddings=4096, rms_norm_eps=1e-5,
            **UNTIED,
        ),
        billions=3.82,
    ),
    Published(
        "microsoft/Phi-3-mini-128k-instruct",
        decoder(
            "phi3", 32064, 3072, 8192, 32, 32, 32, **INERT, attention_bias=False, embd_pdrop=0.0,
            hidden_act="silu", max_position_embeddings=131072,
            original_max_position_embeddings=4096, resid_pdrop=0.0, rms_norm_eps=1e-5,
            rope_scaling={
                "long_factor": [1.0 + i for i in range(48)],
                "short_factor": [1.0 + i / 50 for i in range(48)],
                "type": "longrope",
            },
            rope_theta=10000.0, sliding_window=262144, **UNTIED,
        ),
        parameters=3_821_079_552,
    ),
    Published(
        "zai-org/glm-4-9b-chat-hf",
        decoder(
            "glm", 151552, 4096, 13696, 40, 32, 2, head_dim=128, attention_bias=True,
            partial_rotary_factor=0.5, max_position_embeddings=131072, **UNTIED,
        ),
        billions=9.40,
    ),
    Published(
        "zai-org/GLM-4-9B-0414",
        decoder(
            "glm4", 151552, 4096, 13696, 40, 32, 2, head_dim=128, attention_bias=True,
            partial_rotary_factor=0.5, max_position_embeddings=32768, **UNTIED,
        ),
        billions=9.40,
    ),
    Published(
        "allenai/OLMo-7B-hf",
        decoder("olmo", 50304, 4096, 11008, 32, 32, 32, max_position_embeddings=2048, **UNTIED),
        billions=6.89,
    ),
    Published(
        "allenai/OLMo-2-1124-7B",
        decoder(
            "olmo2", 100352, 4096, 11008, 32, 32, 32, **INERT, attention_bias=False,
            hidden_act="silu", max_position_embeddings=4096, rms_norm_eps=1e-6, rope_scaling=None,
            rope_theta=500000, **UNTIED,
        ),
        billions=7.30,
        parameters=7_298_617_344,
    ),
    Published(
        "allenai/Olmo-3-1025-7B",
        decoder(
            "olmo3", 100278, 4096, 11008, 32, 32, 32, rope_theta=500000.0, sliding_window=4096,
            max_position_embeddings=65536, **UNTIED,
        ),
        billions=7.30,
    ),
    Published(
        "stabilityai/stablelm-2-1_6b",
        decoder(
            "stablelm", 100352, 2048, 5632, 24, 32, 32, **INERT, hidden_act="silu",
            hidden_dropout=0.0, layer_norm_eps=1e-5, max_position_embeddings=4096,
            partial_rotary_factor=0.25, rope_scaling=None, rope_theta=10000, use_qkv_bias=True,
            **UNTIED,
        ),
        billions=1.64,
        parameters=1_644_515_328,
    ),
    Published(
        "bigcode/starcoder2-3b",
        decoder(
            "starcoder2", 49152, 3072, 12288, 30, 24, 2, **INERT, activation_function="gelu",
            embedding_dropout=0.1, hidden_act="gelu_pytorch_tanh", max_position_embeddings=16384,
            mlp_type="default", norm_epsilon=1e-5, norm_type="layer_norm", residual_dropout=0.1,
            rope_theta=999999.4420358813, sliding_window=4096, tie_word_embeddings=True,
            use_bias=True,
        ),
        billions=3.03,
        parameters=3_030_371_328,
    ),
    Published(
        "LGAI-EXAONE/EXAONE-4.0-32B",
        decoder(
            "exaone4", 102400, 5120, 27392, 64, 40, 8, **INERT, head_dim=128, hidden_act="silu",
            layer_types=(["sliding_attention"] * 3 + ["full_attention"]) * 16,
            max_position_embeddings=131072, rms_norm_eps=1e-5,
            rope_scaling={
                "factor": 16.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
            rope_theta=1000000, sliding_window=4096, sliding_window_pattern="LLLG", **UNTIED,
        ),
        billions=32.0,
    ),
    Published(
        "LGAI-EXAONE/EXAONE-4.0-1.2B",
        decoder(
            "exaone4", 102400, 2048, 4096, 30, 32, 8, **INERT, head_dim=64, hidden_act="silu",
            layer_types=["full_attention"] * 30, max_position_embeddings=65536, rms_norm_eps=1e-5,
            rope_scaling={
                "factor": 16.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                "original_max_position_embeddings": 8192, "rope_type": "llama3",
            },
            rope_theta=1000000, sliding_window=None, sliding_window_pattern=None,
            tie_word_embeddings=True,
        ),
        billions=1.28,
    ),
    Published(
        "nvidia/Minitron-4B-Base",
        decoder(
            "nemotron", 256000, 3072, 9216, 32, 24, 8, **INERT, attention_bias=False, head_dim=128,
            hidden_act="relu2", hidden_dropout=0.0, max_position_embeddings=4096, mlp_bias=False,
            norm_eps=1e-5, partial_rotary_factor=0.5, rope_theta=10000.0, **UNTIED,
        ),
        billions=4.19,
    ),
    Published(
        "CohereLabs/c4ai-command-r-v01",
        decoder(
            "cohere", 256000, 8192, 22528, 40, 64, 64, **INERT, attention_bias=False,
            hidden_act="silu", layer_norm_eps=1e-5, logit_scale=0.0625,
            max_position_embeddings=8192, model_max_length=131072, rope_theta=8000000.0,
            use_qk_norm=False,
        ),
        billions=35.0,
        parameters=34_980_831_232,
    ),
    Published(
        "adept/persimmon-8b-base",
        decoder(
            "persimmon", 262144, 4096, 16384, 36, 64, max_position_embeddings=16384,
            rope_theta=25000.0, qk_layernorm=True, partial_rotary_factor=0.5, hidden_act="relu2",
            **UNTIED,
        ),
        billions=9.40,  # 8 billion and the embeddings of a vocabulary that is mostly unused
    ),
)  # fmt: skip
