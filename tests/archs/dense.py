"""GLM, OLMo, StableLM, StarCoder2, Command-R, Persimmon."""

from __future__ import annotations

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, configured, permuted, rope

GLM, CGLM = transformers.GlmForCausalLM, transformers.GlmConfig
GLM4, CGLM4 = transformers.Glm4ForCausalLM, transformers.Glm4Config
O1, CO1 = transformers.OlmoForCausalLM, transformers.OlmoConfig
O2, CO2 = transformers.Olmo2ForCausalLM, transformers.Olmo2Config
O3, CO3 = transformers.Olmo3ForCausalLM, transformers.Olmo3Config
S, CS = transformers.StableLmForCausalLM, transformers.StableLmConfig
SC, CSC = transformers.Starcoder2ForCausalLM, transformers.Starcoder2Config
C, CC = transformers.CohereForCausalLM, transformers.CohereConfig
P, CP = transformers.PersimmonForCausalLM, transformers.PersimmonConfig
A = gguf.MODEL_ARCH
HALF = {"rope.dimension_count": 8}  # of heads of 16


def stacked(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """llama.cpp's converter: the norms of StableLM's heads in one tensor."""
    out = {n: a for n, a in tensors.items() if ".norms." not in n}
    heads = {"q": config.num_attention_heads, "k": config.num_key_value_heads}
    for layer in range(config.num_hidden_layers):
        for part, count in heads.items():
            at = f"model.layers.{layer}.self_attn.{part}_layernorm"
            out[f"{at}.weight"] = np.stack(
                [tensors[f"{at}.norms.{h}.weight"] for h in range(count)]
            )
    return out


def windows(*pattern: bool) -> dict[str, object]:
    """OLMo 3's keys."""
    return {"attention.sliding_window": 24, "attention.sliding_window_pattern": list(pattern)}


_YARN = rope("yarn", 5e5, factor=4.0, original_max_position_embeddings=32)
_OLMO3 = {
    "rope.freq_base": 5e5,
    "rope.scaling.type": "yarn",
    "rope.scaling.factor": 4.0,
    "rope.scaling.original_context_length": 32,
}

ARCHS: tuple[Arch, ...] = (
    # llama.cpp's converter knows no other epsilon.
    Arch("glm", GLM, configured(CGLM, head_dim=16, rms_norm_eps=1e-5), A.CHATGLM, metadata=HALF),
    Arch(
        "glm-ratio",
        GLM,
        configured(
            CGLM,
            head_dim=32,
            attention_bias=False,
            tie_word_embeddings=True,
            rope_parameters=rope("default", 5e6, partial_rotary_factor=0.25),
        ),
        A.CHATGLM,
        metadata={"rope.dimension_count": 8, "rope.freq_base": 5e6},
    ),
    Arch("glm4", GLM4, configured(CGLM4, head_dim=16), A.GLM4, metadata=HALF),
    Arch(
        "glm4-no-bias",
        GLM4,
        configured(
            CGLM4,
            head_dim=32,
            attention_bias=False,
            rope_parameters=rope("default", partial_rotary_factor=1.0),
        ),
        A.GLM4,
    ),
    Arch("olmo", O1, configured(CO1), A.OLMO, permuted, {"attention.layer_norm_epsilon": 1e-5}),
    Arch(
        "olmo-clip",
        O1,
        configured(CO1, clip_qkv=0.5, tie_word_embeddings=True, num_key_value_heads=4),
        A.OLMO,
        permuted,
        {"attention.layer_norm_epsilon": 1e-5, "attention.clamp_kqv": 0.5},
    ),
    Arch("olmo2", O2, configured(CO2), A.OLMO2),
    Arch(
        "olmo2-bias", O2, configured(CO2, attention_bias=True, rope_parameters=rope("default", 5e5))
    ),
    Arch(
        "olmo3",
        O3,
        configured(CO3, num_hidden_layers=4, sliding_window=24),
        A.OLMO2,
        metadata={"rope.freq_base": 5e5, **windows(True, True, True, False)},
    ),
    Arch(
        "olmo3-yarn",
        O3,
        configured(
            CO3,
            num_hidden_layers=4,
            sliding_window=24,
            layer_types=["sliding_attention", "full_attention"] * 2,
            rope_parameters={
                "full_attention": _YARN,
                "sliding_attention": rope("default", 1e4),
            },
        ),
        A.OLMO2,
        metadata={
            **_OLMO3,
            **windows(True, False, True, False),
            "rope.freq_base_swa": 1e4,
        },
    ),
    Arch("stablelm", S, configured(CS), A.STABLELM, metadata={"rope.dimension_count": 4}),
    Arch(
        "stablelm2-bias",
        S,
        configured(CS, use_qkv_bias=True, tie_word_embeddings=True, num_key_value_heads=4),
        A.STABLELM,
        metadata={"rope.dimension_count": 4, "use_parallel_residual": True},
    ),
    Arch(
        "stablelm2-12b",
        S,
        configured(CS, qk_layernorm=True, use_parallel_residual=True),
        A.STABLELM,
        stacked,
        {"rope.dimension_count": 4, "use_parallel_residual": True},
    ),
    Arch(
        "starcoder2",
        SC,
        configured(CSC, rope_parameters=rope("default", 1e5)),
        A.STARCODER2,
        metadata={"rope.freq_base": 1e5, "attention.layer_norm_epsilon": 1e-5},
    ),
    Arch(
        "starcoder2-window",
        SC,
        configured(
            CSC, sliding_window=24, use_bias=False, tie_word_embeddings=False, num_key_value_heads=1
        ),
        A.STARCODER2,
        metadata={"attention.sliding_window": 24, "attention.layer_norm_epsilon": 1e-5},
    ),
    Arch(
        "command-r",
        C,
        configured(CC, rope_parameters=rope("default", 8e6)),
        A.COMMAND_R,
        metadata={"rope.freq_base": 8e6, "logit_scale": 0.0625, "rope.scaling.type": "none"},
    ),
    Arch(
        "command-r-plus",
        C,
        configured(CC, use_qk_norm=True, logit_scale=0.8333, attention_bias=True),
        A.COMMAND_R,
        metadata={"rope.freq_base": 5e5, "logit_scale": 0.8333},
    ),
    Arch("persimmon", P, configured(CP, num_key_value_heads=None)),
    Arch(
        "persimmon-no-norm",
        P,
        configured(
            CP,
            num_key_value_heads=None,
            qk_layernorm=False,
            hidden_act="gelu",
            rope_parameters=rope("default", 25000.0, partial_rotary_factor=0.25),
        ),
    ),
)
