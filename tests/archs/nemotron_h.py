"""Nemotron-H: layers that are Mamba 2, attention, an MLP or a mixture; with and without experts."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from tests.archs import mamba
from tests.archs.base import Arch, Arrays, configured, permute
from tests.archs.hybrid import FULL, LINEAR, SPACE_KEYS

M, C = transformers.NemotronHForCausalLM, transformers.NemotronHConfig
A = gguf.MODEL_ARCH


def stored(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """What llama.cpp's converter does: Mamba 2's tensors as those of others, rows of q and k as
    pairs, experts stacked."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    out = {}
    for name, array in tensors.items():
        name = name.replace("model.", "backbone.", 1)
        at, _, last = name.partition(".mixer.")
        layer, part = at.rpartition(".")[2], last.split(".")[0]
        if last == "A_log":
            name, array = f"blk.{layer}.ssm_a", -np.exp(array)[:, None]
        elif last == "D":
            name, array = f"blk.{layer}.ssm_d", array[:, None]
        elif last == "dt_bias":
            name = f"{at}.mixer.dt.bias"
        elif last == "conv1d.weight":
            array = array[:, 0]
        elif last == "norm.weight":
            array = array.reshape(config.n_groups, -1)
        elif last == "gate.e_score_correction_bias":
            name = f"{at}.mixer.gate.e_score_correction.bias"
        elif part == "experts":
            name = f"model.layers.{layer}.mlp.{last}.weight"
        elif part in heads:
            array = permute(array, heads[part])
        out[name] = array
    return out


SMALL: dict[str, Any] = {
    "num_hidden_layers": None,
    "head_dim": 16,
    "mamba_num_heads": 8,
    "mamba_head_dim": 16,
    "n_groups": 2,
    "ssm_state_size": 16,
    "chunk_size": 32,
}
EXPERTS = {
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 64,
}
KEYS: dict[str, Any] = {
    **SPACE_KEYS,
    "context_length": 1 << 20,
    "attention.layer_norm_epsilon": 1e-5,
    "attention.layer_norm_rms_epsilon": 1e-5,
    "attention.key_length": 16,
    "attention.value_length": 16,
    "rope.freq_base": None,
    "rope.scaling.finetuned": False,
}

ARCHS: tuple[Arch, ...] = (
    Arch(
        "nemotron-h",
        M,
        configured(C, **SMALL, layers_block_type=[LINEAR, "mlp", FULL, "mlp", LINEAR, "mlp", FULL]),
        A.NEMOTRON_H,
        stored,
        {
            **KEYS,
            "feed_forward_length": [0, 96, 0, 96, 0, 96, 0],
            "attention.head_count_kv": [0, 0, 2, 0, 0, 0, 2],
        },
        exact=False,
        packed=mamba.packed,
    ),
    Arch(
        "nemotron-h-moe",
        M,
        configured(
            C,
            **SMALL,
            **EXPERTS,
            layers_block_type=[LINEAR, "moe", FULL, "moe", LINEAR, "moe", FULL],
            routed_scaling_factor=1.5,
            n_group=2,
            topk_group=1,
        ),
        A.NEMOTRON_H_MOE,
        stored,
        {
            **KEYS,
            "feed_forward_length": [0, 32, 0, 32, 0, 32, 0],
            "attention.head_count_kv": [0, 0, 2, 0, 0, 0, 2],
            "expert_count": 8,
            "expert_used_count": 3,
            "expert_feed_forward_length": 32,
            "expert_shared_feed_forward_length": 64,
            "expert_shared_count": 1,
            "expert_weights_norm": True,
            "expert_weights_scale": 1.5,
            "expert_group_count": 2,
            "expert_group_used_count": 1,
        },
        exact=False,
        packed=mamba.packed,
    ),
    Arch(
        "nemotron-h-latent",
        M,
        configured(
            C,
            **SMALL | {"n_groups": 1, "conv_kernel": 3},
            **EXPERTS,
            layers_block_type=["moe", LINEAR, FULL, "moe", LINEAR],
            moe_latent_size=32,
            norm_topk_prob=False,
            routed_scaling_factor=0.5,
            layer_norm_epsilon=1e-3,
            tie_word_embeddings=False,
            residual_in_fp32=True,
        ),
        A.NEMOTRON_H_MOE,
        stored,
        {
            **KEYS,
            "ssm.group_count": 1,
            "ssm.conv_kernel": 3,
            "attention.layer_norm_epsilon": 1e-3,
            "attention.layer_norm_rms_epsilon": 1e-3,
            "feed_forward_length": [32, 0, 0, 32, 0],
            "attention.head_count_kv": [0, 0, 2, 0, 0],
            "expert_count": 8,
            "expert_used_count": 3,
            "expert_feed_forward_length": 32,
            "expert_shared_feed_forward_length": 64,
            "expert_shared_count": 1,
            "expert_weights_norm": False,
            "expert_weights_scale": 0.5,
            "expert_group_count": 1,
            "expert_group_used_count": 1,
            "moe_latent_size": 32,
        },
        exact=False,
        packed=mamba.packed,
    ),
    Arch(
        "nemotron-h-biases",
        M,
        configured(
            C,
            **SMALL | {"head_dim": 24},
            layers_block_type=["mlp", LINEAR, FULL, "mlp", LINEAR],
            use_bias=True,
            mlp_bias=True,
            use_conv_bias=False,
        ),
        A.NEMOTRON_H,
        stored,
        {
            **KEYS,
            "feed_forward_length": [96, 0, 0, 96, 0],
            "attention.head_count_kv": [0, 0, 2, 0, 0],
            "attention.key_length": 24,
            "attention.value_length": 24,
        },
        exact=False,
        packed=mamba.packed,
    ),
)
