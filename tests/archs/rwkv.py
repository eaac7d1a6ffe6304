"""RWKV 5, 6 and 7: recurrences of a matrix for each head; widths, heads, ranks and norms that
differ."""

from __future__ import annotations

import re
from typing import Any

import gguf
import numpy as np
from transformers import PretrainedConfig

from rbee_worker.verify.rwkv import (
    Rwkv5Config,
    Rwkv5ForCausalLM,
    Rwkv6Config,
    Rwkv6ForCausalLM,
    Rwkv7Config,
    RWKV7ForCausalLM,
    register,
)
from tests.archs.base import Arch, Arrays, Blocks, configured

register()  # the type names, for whoever looks a row's config up in transformers

M5, C5 = Rwkv5ForCausalLM, Rwkv5Config
M6, C6 = Rwkv6ForCausalLM, Rwkv6Config
M7, C7 = RWKV7ForCausalLM, Rwkv7Config
# What is as attention's is no key of these families.
NONE: dict[str, Any] = dict.fromkeys(
    (
        *("intermediate_size", "num_attention_heads", "num_key_value_heads"),
        "max_position_embeddings",
    )
)
SMALL: dict[str, Any] = {**NONE, "head_size": 16}

EVERY = 2  # layers after which matrices of a file are halved once more


def stored_sixth(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """What llama.cpp's converter does to RWKV 6: it turns narrow matrices, puts the factors of five
    ways into one tensor, and halves matrices after every few layers."""
    out: Arrays = {}
    for name, array in tensors.items():
        part = name.rpartition(".")[2]
        layer = re.match(r"rwkv\.blocks\.(\d+)\.", name)
        at = f"blk.{layer[1]}" if layer else ""
        if name.endswith(("attention.output.weight", "feed_forward.value.weight")):
            assert layer is not None
            array = array / 2 ** (int(layer[1]) // EVERY)
        if "feed_forward.time_maa" in name:
            out[f"{at}.channel_mix_lerp_{part[-1]}.weight"] = array.ravel()
        elif part in ("time_maa_w1", "time_decay_w1", "time_decay_w2"):
            to = part.replace("time_maa", "time_mix").replace("time_decay", "time_mix_decay")
            out[f"{at}.{to}.weight"] = array.T
        elif part == "time_maa_w2":
            out[f"{at}.time_mix_w2.weight"] = array.swapaxes(1, 2)
        elif part == "time_maa_x":
            out[f"{at}.time_mix_lerp_x.weight"] = array.ravel()
        elif part == "time_maa_w":
            five = [tensors[f"{name[:-1]}{way}"].ravel() for way in "wkvrg"]
            out[f"{at}.time_mix_lerp_fused.weight"] = np.stack(five)[:, None, None]
        elif part == "time_decay":
            out[f"{at}.time_mix_decay.weight"] = array.ravel()
        elif part == "time_faaaa":
            out[f"{at}.time_mix_first.weight"] = array
        elif "time_maa" not in part:
            out[name] = array
    return out


def packed(name: str, value: np.ndarray, blocks: Blocks) -> np.ndarray:
    """Narrow matrices and numbers of heads are never packed."""
    return value if re.search(r"time_|_lora|r_k", name) else blocks(value)


SEVENTH = {
    "ffn_norm": "attn_norm_2",
    "attn.g_norm": "time_mix_ln",
    **{
        f"attn.{a}_proj": f"time_mix_{b}"
        for a, b in zip("rkv", ("receptance", "key", "value"), strict=True)
    },
    "attn.o_proj": "time_mix_output",
    "ffn.key": "channel_mix_key",
    "ffn.value": "channel_mix_value",
}


def stored_seventh(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """The same of RWKV 7: six ways in one tensor, a vector for the bonus of all heads, and in the
    first layer the matrices of `rate` in place of those it has not."""
    out: Arrays = {}
    for name, array in tensors.items():
        layer = re.match(r"model\.layers\.(\d+)\.(.*)", name)
        if layer is None or "pre_norm" in name:
            out[name] = array
            continue
        at, inside = f"blk.{layer[1]}", layer[2]
        low = re.match(r"attn\.(\w)_lora\.lora\.(\d)\.(\w+)", inside)
        if low:
            number = 0 if low[3] == "bias" else 1 + int(low[2]) // 2
            out[f"{at}.time_mix_{low[1]}{number}.weight"] = array
            if at == "blk.0" and low[1] == "a":
                out[f"{at}.time_mix_v{number}.weight"] = array
        elif inside == "attn.x_r":
            six = [tensors[f"{name[:-1]}{way}"] for way in "rwkvag"]
            out[f"{at}.time_mix_lerp_fused.weight"] = np.stack([x.ravel() for x in six])[
                :, None, None
            ]
        elif inside == "ffn.x_k":
            out[f"{at}.channel_mix_lerp_k.weight"] = array
        elif inside in ("attn.k_k", "attn.k_a", "attn.r_k"):
            out[f"{at}.time_mix_{inside[5:]}.weight"] = array.ravel()
        elif "attn.x_" not in inside:
            stem, _, kind = inside.rpartition(".")
            out[f"{at}.{SEVENTH.get(stem, stem)}.{kind}"] = array
    return out


def metadata(**more: Any) -> dict[str, Any]:
    """llama.cpp's keys of RWKV 6 and 7."""
    return {
        "context_length": 1 << 20,
        "attention.head_count": 0,
        "wkv.head_size": 16,
        "attention.layer_norm_epsilon": 1e-5,
        **more,
    }


def ranks() -> PretrainedConfig:
    """RWKV 7 with ranks that are given or follow from the width, and null for the width of a head,
    which `configured` cannot say."""
    config = configured(
        C7,
        **{**NONE, "intermediate_size": 96},
        norm_bias=False,
        norm_first=False,
        norm_eps=1e-3,
        hidden_ratio=2.0,
        num_heads=2,
        gate_low_rank_dim=40,
        a_low_rank_dim=16,
    )()
    config.head_dim = config.decay_low_rank_dim = config.v_low_rank_dim = None
    return config


ARCHS: tuple[Arch, ...] = (
    Arch("rwkv5", M5, configured(C5, **SMALL)),
    Arch(
        "rwkv5-sizes",
        M5,
        configured(
            C5,
            **{**NONE, "intermediate_size": 96},
            head_size=24,
            attention_hidden_size=48,
            head_size_divisor=4,
            layer_norm_epsilon=1e-3,
        ),
    ),
    Arch(
        "rwkv6",
        M6,
        configured(C6, **SMALL, rescale_every=EVERY),
        gguf.MODEL_ARCH.RWKV6,
        stored_sixth,
        metadata(
            feed_forward_length=224,
            rescale_every_n_layers=EVERY,
            time_mix_extra_dim=32,
            time_decay_extra_dim=64,
        ),
        packed=packed,
    ),
    Arch(
        "rwkv6-sizes",
        M6,
        configured(
            C6,
            **{**NONE, "intermediate_size": 96},
            head_size=24,
            attention_hidden_size=48,
            head_size_divisor=4,
            layer_norm_epsilon=1e-3,
        ),
    ),
    Arch(
        "rwkv7",
        M7,
        configured(C7, **NONE, head_dim=16, norm_eps=4e-5),  # of heads: 64e-5, as in every file
        gguf.MODEL_ARCH.RWKV7,
        stored_seventh,
        metadata(
            feed_forward_length=256,
            **{
                "attention.layer_norm_epsilon": 4e-5,
                "attention.decay_lora_rank": 64,
                "attention.iclr_lora_rank": 64,
                "attention.value_residual_mix_lora_rank": 16,
                "attention.gate_lora_rank": 128,
            },
        ),
        packed=packed,
    ),
    Arch("rwkv7-ranks", M7, ranks),
)
