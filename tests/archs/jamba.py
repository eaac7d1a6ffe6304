"""Jamba: Mamba, attention and mixtures at their own periods; biases, other ranks and periods."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from tests.archs import mamba
from tests.archs.base import Arch, Arrays, configured

M, C = transformers.JambaForCausalLM, transformers.JambaConfig
A = gguf.MODEL_ARCH


def stored(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """Rates, two dimensions for a convolution, stacked experts, cut into halves."""
    out = {}
    for name, array in tensors.items():
        last = name.partition(".mamba.")[2]
        layer = name.split(".")[2] if name.startswith("model.layers.") else ""
        experts = f"model.layers.{layer}.mlp.experts."
        if last == "A_log":
            out[f"blk.{layer}.ssm_a"] = -np.exp(array)
        elif last == "D":
            out[f"blk.{layer}.ssm_d"] = array
        elif last == "conv1d.weight":
            out[name] = array[:, 0]
        elif name.endswith("experts.gate_up_proj"):
            half = array.shape[1] // 2
            out |= {f"{experts}gate_proj.weight": array[:, :half]}
            out |= {f"{experts}up_proj.weight": array[:, half:]}
        elif name.endswith("experts.down_proj"):
            out[f"{experts}down_proj.weight"] = array
        else:
            out[name] = array
    return out


SMALL: dict[str, Any] = {
    "mamba_dt_rank": 32,
    "num_experts": 4,
    "attn_layer_period": 3,
    "attn_layer_offset": 1,
    "num_hidden_layers": 5,
}
KEYS: dict[str, Any] = {
    "attention.head_count_kv": [0, 2, 0, 0, 2],
    "ssm.conv_kernel": 4,
    "ssm.inner_size": 128,
    "ssm.state_size": 16,
    "ssm.time_step_rank": 32,
    "expert_count": 4,
    "expert_used_count": 2,
    "rope.freq_base": None,
    "rope.dimension_count": None,
}

ARCHS: tuple[Arch, ...] = (
    Arch(
        "jamba", M, configured(C, **SMALL), A.JAMBA, stored, KEYS, exact=False, packed=mamba.packed
    ),
    Arch(
        "jamba-biases",
        M,
        configured(
            C,
            **SMALL | {"mamba_dt_rank": "auto", "attn_layer_period": 2, "num_hidden_layers": 4},
            num_experts_per_tok=1,
            expert_layer_period=3,
            expert_layer_offset=2,
            mamba_d_state=24,
            mamba_d_conv=3,
            mamba_expand=3,
            mamba_conv_bias=False,
            mamba_proj_bias=True,
            tie_word_embeddings=True,
            rms_norm_eps=1e-3,
        ),
    ),
    Arch(
        "jamba-dense",
        M,
        configured(C, **SMALL | {"num_experts": 1}, num_experts_per_tok=1),
        A.JAMBA,
        stored,
        KEYS | {"expert_count": 1, "expert_used_count": 1},
        exact=False,
        packed=mamba.packed,
    ),
)
