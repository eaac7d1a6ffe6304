"""Based: three kinds of layers, windows that are passed, sizes and orders that differ; published
files have GPT-2's model_type."""

from __future__ import annotations

from typing import Any

from rbee_worker.verify.based import BasedConfig, BasedForCausalLM, register
from tests.archs.base import Arch, Arrays, configured

register()  # the type names, for whoever looks a row's config up in transformers

M, C = BasedForCausalLM, BasedConfig
EMBEDDING = "transformer.embeddings.word_embeddings.weight"
AT = "based.models.mixers"
NONE: dict[str, Any] = {"num_key_value_heads": None, "max_position_embeddings": None}


def published(config: dict[str, Any], tensors: Arrays) -> tuple[dict[str, Any], Arrays]:
    """A published file: GPT-2's type and its other keys, the names of a trainer's model, a head
    that is the embedding as well, and what training left."""
    keys = {"fixed_decay": True, "n_positions": 0, "summary_type": "cls_index", "fused_mlp": False}
    renamed = {f"model.{k}": v for k, v in tensors.items() if k != EMBEDDING}
    if "model.lm_head.weight" not in renamed:
        renamed["model.lm_head.weight"] = tensors[EMBEDDING]
    return {**config, **keys, "model_type": "gpt2"}, renamed


ARCHS: tuple[Arch, ...] = (
    Arch(
        "based",
        M,
        configured(
            C,
            **NONE,
            num_hidden_layers=4,
            alt_mixer_layers=[1],
            alt_mixer_2_layers=[2],
            pad_vocab_size_multiple=8,
            rotary_emb_fraction=1.0,
            mixer={"_target_": f"{AT}.convolution.BaseConv", "l_max": 256, "expand_proj": 4},
            alt_mixer={
                "_target_": f"{AT}.linear_attention.LinearAttention",
                "l_max": 256,
                "feature_map": {
                    "_target_": f"{AT}.linear_attention.TaylorExp",
                    "input_dim": 16,
                },
                "feature_dim": 16,
                "num_heads": 4,
                "parallel_implementation": "fla_parallel",
            },
            alt_mixer_2={
                "_target_": f"{AT}.slide_attention.SlidingAttention",
                "window_size": 48,
                "num_heads": 4,
                "causal": True,
            },
        ),
        disk=published,
    ),
    Arch(
        "based-sizes",
        M,
        configured(
            C,
            **NONE,
            num_hidden_layers=5,
            n_head_kv=2,
            intermediate_size=300,
            layer_norm_epsilon=1e-3,
            alt_mixer_layers=[0, 3],
            alt_mixer_2_layers=[2, 3],
            rotary_emb_fraction=0.5,
            rotary_emb_base=500.0,
            rotary_emb_interleaved=True,
            mixer={"use_bias": False, "kernel_size": 4},
            alt_mixer={"feature_dim": 8, "num_heads": 8, "head_dim": 24},
            alt_mixer_2={"window_size": 33},
            tie_word_embeddings=False,
        ),
    ),
)
