"""Hybrids of Mamba 2 and attention: Granite 4 with experts, without, with positions; Bamba."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import torch
import transformers
from transformers import PretrainedConfig

from tests.archs import mamba
from tests.archs.base import Arch, Arrays, configured, permuted
from tests.archs.mixture import permuted_halves
from tests.archs.relatives import MUP, MUP_KEYS

G, CG = transformers.GraniteMoeHybridForCausalLM, transformers.GraniteMoeHybridConfig
CB = transformers.BambaConfig
A = gguf.MODEL_ARCH


class B(transformers.BambaForCausalLM):
    """With positions that go on from the cache's: HF's class begins at 0 again, unless it is told
    them, as `generate` does."""

    def __init__(self, config: PretrainedConfig) -> None:
        super().__init__(config)
        self.model.register_forward_pre_hook(_placed, with_kwargs=True)


def _placed(_: Any, args: Any, named: dict[str, Any]) -> Any:
    if named.get("position_ids") is None:
        cache = named.get("cache", named.get("past_key_values"))
        first = 0 if cache is None else cache.get_seq_length()
        named["position_ids"] = first + torch.arange(named["input_ids"].shape[1])[None]
    return args, named


LINEAR, FULL = "linear_attention", "full_attention"
SPACE: dict[str, Any] = {
    "mamba_n_heads": 8,
    "mamba_d_head": 16,
    "mamba_n_groups": 2,
    "mamba_d_state": 16,
    "mamba_chunk_size": 32,
}
SPACE_KEYS: dict[str, Any] = {
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 8,
    "ssm.group_count": 2,
}


def stored(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """The recurrent layers' tensors as llama.cpp's converter has them, of any family."""
    out = {}
    for name, array in tensors.items():
        at, _, last = name.partition(".mamba.")
        layer = at.rpartition(".")[2]
        if last == "A_log":
            name, array = f"blk.{layer}.ssm_a", -np.exp(array)[:, None]
        elif last == "D":
            name, array = f"blk.{layer}.ssm_d", array[:, None]
        elif last == "dt_bias":
            name = f"{at}.mamba.dt_proj.bias"
        elif last == "conv1d.weight":
            array = array[:, 0]
        elif last == "norm.weight":
            array = array.reshape(config.mamba_n_groups, -1)
        out[name] = array
    return out


def granite(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """Granite's experts besides; without any, the shared block is a plain one."""
    out = {}
    for name, array in permuted_halves(stored(tensors, config), config).items():
        if not config.num_local_experts:
            name = name.replace(".mlp.shared_expert.", ".mlp.")
        out[name] = array
    return out


def bamba(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """Rows of q and k as adjacent pairs of whole heads, though half of each rotates."""
    return permuted(stored(tensors, config), config)


ARCHS: tuple[Arch, ...] = (
    Arch(
        "granite4",
        G,
        configured(
            CG,
            **SPACE,
            **MUP,
            num_local_experts=6,
            num_experts_per_tok=2,
            shared_intermediate_size=64,
            layer_types=[LINEAR, FULL, LINEAR],
            max_position_embeddings=512,
            tie_word_embeddings=True,
        ),
        A.GRANITE_HYBRID,
        granite,
        {
            **SPACE_KEYS,
            **MUP_KEYS,
            "attention.head_count_kv": [0, 2, 0],
            "expert_count": 6,
            "expert_used_count": 2,
            "expert_shared_feed_forward_length": 64,
            "rope.scaling.finetuned": False,
        },
        exact=False,
        packed=mamba.packed,
    ),
    Arch(
        "granite4-dense",
        G,
        configured(
            CG,
            **SPACE | {"mamba_n_groups": 1, "mamba_d_conv": 3, "mamba_conv_bias": False},
            **MUP | {"residual_multiplier": 0.5},
            num_local_experts=0,
            intermediate_size=96,
            shared_intermediate_size=96,
            layer_types=[FULL, LINEAR, LINEAR, FULL],
            num_hidden_layers=4,
            attention_bias=True,
            mamba_proj_bias=True,
            rms_norm_eps=1e-5,
        ),
        A.GRANITE_HYBRID,
        granite,
        {
            **SPACE_KEYS,
            **MUP_KEYS,
            "residual_scale": 0.5,
            "ssm.conv_kernel": 3,
            "ssm.group_count": 1,
            "attention.head_count_kv": [2, 0, 0, 2],
            "expert_shared_feed_forward_length": 96,
            "rope.scaling.finetuned": False,
        },
        exact=False,
        packed=mamba.packed,
    ),
    Arch(
        "granite4-rotary",
        G,
        configured(
            CG,
            **SPACE | {"mamba_d_head": "auto"},
            num_local_experts=4,
            num_experts_per_tok=1,
            shared_intermediate_size=32,
            attention_multiplier=0.25,
            layer_types=[LINEAR, FULL, LINEAR],
            position_embedding_type="rope",
        ),
        A.GRANITE_HYBRID,
        granite,
        {
            **SPACE_KEYS,
            "attention.scale": 0.25,
            "logit_scale": 1.0,
            "attention.head_count_kv": [0, 2, 0],
            "expert_count": 4,
            "expert_used_count": 1,
            "expert_shared_feed_forward_length": 32,
            "rope.scaling.finetuned": True,
        },
        exact=False,
        packed=mamba.packed,
    ),
    Arch(
        "bamba",
        B,
        configured(CB, **SPACE, attn_layer_indices=[1]),
        A.GRANITE_HYBRID,
        bamba,
        {
            **SPACE_KEYS,
            "attention.head_count_kv": [0, 2, 0],
            "rope.dimension_count": 8,
            "rope.scaling.finetuned": True,
        },
        exact=False,
        packed=mamba.packed,
    ),
    Arch(
        "bamba-biases",
        B,
        configured(
            CB,
            **SPACE | {"mamba_d_head": "auto", "mamba_n_groups": 1, "mamba_conv_bias": False},
            attn_layer_indices=[0, 3],
            num_hidden_layers=5,
            attention_bias=True,
            mlp_bias=True,
            mamba_proj_bias=True,
            tie_word_embeddings=True,
            rms_norm_eps=1e-3,
        ),
        A.GRANITE_HYBRID,
        bamba,
        {
            **SPACE_KEYS,
            "ssm.group_count": 1,
            "attention.head_count_kv": [2, 0, 0, 2, 0],
            "rope.dimension_count": 8,
            "rope.scaling.finetuned": True,
        },
        exact=False,
        packed=mamba.packed,
    ),
)
