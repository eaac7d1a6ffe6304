"""Llama 4: chunks, layers without positions, temperatures; alone and beside a vision tower."""

from __future__ import annotations

from typing import Any

import gguf
import numpy as np
import transformers
from transformers import PretrainedConfig

from tests.archs.base import Arch, Arrays, Blocks, configured, rope
from tests.archs.llama import LLAMA3, llama3_divisors

MODEL, CONFIG = transformers.Llama4ForCausalLM, transformers.Llama4TextConfig


def apart(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """llama.cpp's converter: gate and up of experts apart, outputs as rows."""
    out = {}
    for name, array in tensors.items():
        if name.endswith("experts.gate_up_proj"):
            gate, up = np.split(array.swapaxes(1, 2), 2, axis=1)
            out[name.replace("gate_up", "gate") + ".weight"] = gate
            out[name.replace("gate_up", "up") + ".weight"] = up
        elif name.endswith("experts.down_proj"):
            out[f"{name}.weight"] = array.swapaxes(1, 2)
        else:
            out[name] = array
    return out


def along_inputs(name: str, value: np.ndarray, blocks: Blocks) -> np.ndarray:
    """What is left of a tensor after packing: the rows of experts are their outputs."""
    if ".experts." not in name:
        return blocks(value)
    left = blocks(np.ascontiguousarray(value.swapaxes(1, 2)))
    return np.ascontiguousarray(left.swapaxes(1, 2))


def with_images(config: dict[str, Any], tensors: Arrays) -> tuple[dict[str, Any], Arrays]:
    """The whole model: the text half inside of its config and behind a prefix."""
    whole = {
        "model_type": "llama4",
        "architectures": ["Llama4ForConditionalGeneration"],
        "boi_token_index": 200080,
        "eoi_token_index": 200081,
        "image_token_index": 200092,
        "text_config": {k: v for k, v in config.items() if k != "architectures"},
        "vision_config": {"hidden_size": 8},
        "tie_word_embeddings": False,
    }
    out = {f"language_model.{name}": array for name, array in tensors.items()}
    out["vision_model.class_embedding"] = np.ones(8, np.float32)
    out["multi_modal_projector.linear_1.weight"] = np.ones((8, 8), np.float32)
    return whole, out


_SHAPE = {"num_hidden_layers": 4, "intermediate_size": 32, "intermediate_size_mlp": 96}
_KEYS = {
    "feed_forward_length": 96,
    "expert_feed_forward_length": 32,
    "expert_count": 4,
    "expert_used_count": 1,
    "interleave_moe_layer_step": 1,
}

ARCHS: tuple[Arch, ...] = (
    Arch(
        "llama4",
        MODEL,
        configured(
            CONFIG,
            **_SHAPE,
            head_dim=16,
            num_local_experts=4,
            rope_parameters=LLAMA3,
        ),
        gguf.MODEL_ARCH.LLAMA4,
        apart,
        _KEYS,
        extra=llama3_divisors,
        exact=False,
        packed=along_inputs,
    ),
    Arch(
        "llama4-chunks",
        MODEL,
        configured(
            CONFIG,
            **_SHAPE,
            head_dim=32,
            num_local_experts=6,
            attention_chunk_size=24,
            floor_scale=8,
            attn_scale=0.5,
            no_rope_layers=[1, 0, 1, 0],
            interleave_moe_layer_step=2,
            rope_parameters=rope("default", 5e5),
        ),
    ),
    Arch(
        "llama4-no-norm-with-images",
        MODEL,
        configured(
            CONFIG,
            **_SHAPE,
            head_dim=16,
            num_local_experts=4,
            attention_chunk_size=32,
            use_qk_norm=False,
            attn_temperature_tuning=False,
            attention_bias=True,
            moe_layers=[0, 3],
            rope_parameters=rope("default", 5e5),
        ),
        disk=with_images,
    ),
)
