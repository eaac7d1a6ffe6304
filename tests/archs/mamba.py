"""Mamba, Falcon-Mamba and Mamba 2: state spaces, no attention; epsilons, biases, ranks, heads,
groups and widths of their own."""

from __future__ import annotations

import re
from typing import Any

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, Blocks, configured

M, C = transformers.MambaForCausalLM, transformers.MambaConfig
FM, FC = transformers.FalconMambaForCausalLM, transformers.FalconMambaConfig
A = gguf.MODEL_ARCH.MAMBA
# Rows of 32 fill whole blocks of packed formats; what is as attention's is no key of the family's.
NONE: dict[str, Any] = dict.fromkeys(
    (
        *("intermediate_size", "num_attention_heads", "num_key_value_heads"),
        "max_position_embeddings",
    )
)
SMALL: dict[str, Any] = {**NONE, "time_step_rank": 32}


def stored(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """What llama.cpp's converter does: rates instead of their logarithms, two dimensions for the
    convolution, no head that equals the embedding."""
    out = {}
    for name, array in tensors.items():
        layer = re.match(r"backbone\.layers\.(\d+)\.mixer\.(A_log|D)$", name)
        if layer is None:
            out[name] = array[:, 0] if name.endswith("conv1d.weight") else array
        elif layer[2] == "D":
            out[f"blk.{layer[1]}.ssm_d"] = array
        else:
            out[f"blk.{layer[1]}.ssm_a"] = -np.exp(array)
    return out


def packed(name: str, value: np.ndarray, blocks: Blocks) -> np.ndarray:
    """Rates and taps are never packed."""
    return value if name.endswith(("A_log", "conv1d.weight")) else blocks(value)


def metadata(rank: int, *, states: int = 16, kernel: int = 4, **more: Any) -> dict[str, Any]:
    """llama.cpp's keys; those of attention say nothing."""
    return {
        "context_length": 1 << 20,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "ssm.conv_kernel": kernel,
        "ssm.inner_size": 128,
        "ssm.state_size": states,
        "ssm.time_step_rank": rank,
        **more,
    }


M2, C2 = transformers.Mamba2ForCausalLM, transformers.Mamba2Config
A2 = gguf.MODEL_ARCH.MAMBA2


def stored_heads(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """The same of Mamba 2: numbers of heads are columns, a norm has a row for each group."""
    out = {}
    for name, array in stored(tensors, config).items():
        if name.endswith((".ssm_a", ".ssm_d")):
            out[name] = array[:, None]
        elif name.endswith(".dt_bias"):
            out[name.replace("dt_bias", "dt_proj.bias")] = array
        elif name.endswith("mixer.norm.weight"):
            out[name] = array.reshape(config.n_groups, -1)
        else:
            out[name] = array
    return out


# log(exp(x)) is x but for its last bits: `exact` cannot hold.
ARCHS: tuple[Arch, ...] = (
    Arch("mamba", M, configured(C, **SMALL), A, stored, metadata(32), exact=False, packed=packed),
    Arch(
        "mamba-biases",
        M,
        configured(
            C,
            **NONE,
            use_bias=True,
            use_conv_bias=False,
            state_size=24,
            conv_kernel=3,
            expand=3,
            layer_norm_epsilon=1e-3,
            residual_in_fp32=False,
            tie_word_embeddings=False,
        ),
    ),
    Arch(
        "falcon-mamba",
        FM,
        configured(
            FC,
            **SMALL,
            state_size=8,
            layer_norm_epsilon=1e-3,
            mixer_rms_eps=1e-3,
            tie_word_embeddings=False,
        ),
        A,
        stored,
        metadata(
            32,
            states=8,
            **{"attention.layer_norm_rms_epsilon": 1e-3, "ssm.dt_b_c_rms": True},
        ),
        exact=False,
        packed=packed,
    ),
    Arch("falcon-mamba-inner", FM, configured(FC, **{**NONE, "intermediate_size": 96}, expand=16)),
    # transformers' chunks come round several times in a prompt.
    Arch(
        "mamba2",
        M2,
        configured(
            C2,
            **NONE,
            num_heads=8,
            head_dim=16,
            n_groups=2,
            state_size=16,
            chunk_size=32,
        ),
        A2,
        stored_heads,
        metadata(8, **{"ssm.group_count": 2}),
        exact=False,
        packed=packed,
    ),
    Arch(
        "mamba2-one-group",
        M2,
        configured(
            C2,
            **NONE,
            num_heads=8,
            head_dim=24,
            n_groups=1,
            state_size=24,
            chunk_size=16,
            expand=3,
            conv_kernel=3,
            use_bias=True,
            use_conv_bias=False,
            layer_norm_epsilon=1e-3,
            residual_in_fp32=False,
            tie_word_embeddings=True,
        ),
        A2,
        stored_heads,
        metadata(
            8,
            states=24,
            kernel=3,
            **{
                "ssm.group_count": 1,
                "ssm.inner_size": 192,
                "attention.layer_norm_rms_epsilon": 1e-3,
            },
        ),
        exact=False,
        packed=packed,
    ),
)
