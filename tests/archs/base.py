"""One row of the table of tiny configs, its oracle, and its files in both formats.

The oracle is HF transformers in float32 with random weights; GGUF files are written by the `gguf`
package from those weights, as llama.cpp's converter would.
"""

from __future__ import annotations

import copy
import inspect
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from safetensors.numpy import load_file, save_file
from transformers import PretrainedConfig, PreTrainedModel

VOCAB = 211
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
# Tensors that llama.cpp leaves as they are, whatever the file is quantized to.
NEVER_PACKED = (
    r"norm|ssm_conv1d|shortconv.conv|time_mix_(first|lerp|decay|[wavg]\d)|channel_mix_lerp"
)
Arrays = dict[str, np.ndarray]
Blocks = Callable[[np.ndarray], np.ndarray]  # rows, packed and unpacked


def unchanged(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """Tensors that llama.cpp's converter takes as they are."""
    return tensors


@dataclass(frozen=True, eq=False)
class Arch:
    """A row: HF's config and model class, and llama.cpp's name for it (None: no such file).

    convert: what llama.cpp's converter makes of HF's tensors, still under HF names, or under GGUF
    names of a layer. exact: that
    changes no value, so that both formats must give the same bits. disk: HF's config.json and
    tensors -> those of the model's own code, which the checkpoint on disk then has. packed: what
    is left of a tensor after conversion and packing, by a function that packs and unpacks rows.
    """

    id: str
    model: type[PreTrainedModel]
    config: Callable[[], PretrainedConfig]
    gguf_arch: int | None = None
    convert: Callable[[Arrays, PretrainedConfig], Arrays] = unchanged
    metadata: Mapping[str, Any] = field(default_factory=dict)  # GGUF keys beyond the common ones
    extra: Callable[[PretrainedConfig], Arrays] | None = None  # tensors only GGUF files have
    exact: bool = True
    disk: Callable[[dict[str, Any], Arrays], tuple[dict[str, Any], Arrays]] | None = None
    packed: Callable[[str, np.ndarray, Blocks], np.ndarray] | None = None
    prompt: int = 70
    decoded: int = 20


def configured(kind: type[PretrainedConfig], **values: Any) -> Callable[[], PretrainedConfig]:
    """A maker of HF configs of the common tiny shape; None removes a key."""

    def make() -> PretrainedConfig:
        # HF writes into the dicts it is given.
        merged = {k: _copied(v) for k, v in {**SHAPE, **values}.items() if v is not None}
        return kind(**merged)

    return make


def _copied(value: Any) -> Any:
    return {k: _copied(v) for k, v in value.items()} if isinstance(value, dict) else value


def rope(kind: str, theta: float = 10000.0, **values: Any) -> dict[str, Any]:
    """HF's `rope_parameters`."""
    return {"rope_type": kind, "rope_theta": theta, **values}


@cache
def oracle(arch: Arch) -> PreTrainedModel:
    """The HF model with random weights, float32; biases and norms random too, seeded."""
    torch.manual_seed(7)
    model = arch.model(arch.config()).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith("A_log"):
                p.sub_(3.0)  # states that last for many tokens
            elif p.ndim == 1:
                p.copy_(torch.randn_like(p) * 0.3 + (1.0 if "norm" in name else 0.0))
            else:
                p.mul_(4.0)  # HF's 0.02 gives nearly linear blocks: errors would hide
        for name, b in model.named_buffers():
            if name.endswith(("e_score_correction_bias", "expert_bias")) and not b.any():
                b.copy_(torch.randn_like(b) * 0.3)  # biases that matter for choosing experts
    return model


def cache_name(model: PreTrainedModel) -> str:
    """What this transformers calls a model's cache, in the arguments and in the output.

    `cache` since 5.24, where the older `past_key_values` is deprecated (gone in 5.40).
    """
    taken = inspect.signature(model.forward).parameters
    return "cache" if "cache" in taken else "past_key_values"


def write_safetensors(model: PreTrainedModel, folder: Path) -> Path:
    """HF's own files."""
    model.save_pretrained(folder)
    return folder


def write_checkpoint(arch: Arch, folder: Path) -> Path:
    """HF's own files, or those of `arch.disk`."""
    write_safetensors(oracle(arch), folder)
    if arch.disk is not None:
        at, weights = folder / "config.json", folder / "model.safetensors"
        config, tensors = arch.disk(json.loads(at.read_text()), load_file(weights))
        at.write_text(json.dumps(config))
        save_file(tensors, weights, metadata={"format": "pt"})
    return folder


def permute(weight: np.ndarray, heads: int) -> np.ndarray:
    """llama.cpp's converter: rows of each head from half-split to adjacent pairs."""
    rows = weight.shape[0]
    paired = weight.reshape(heads, 2, rows // heads // 2, *weight.shape[1:])
    return paired.swapaxes(1, 2).reshape(weight.shape)


def unpermute(weight: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of `permute`."""
    rows = weight.shape[0]
    paired = weight.reshape(heads, rows // heads // 2, 2, *weight.shape[1:])
    return paired.swapaxes(1, 2).reshape(weight.shape)


def permuted(tensors: Arrays, config: PretrainedConfig) -> Arrays:
    """The llama family: rows of q and k as adjacent pairs."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    out = {}
    for name, array in tensors.items():
        part = name.split(".")[-2]
        out[name] = permute(array, heads[part]) if part in heads else array
    return out


def gguf_tensors(arch: Arch, model: PreTrainedModel) -> Arrays:
    """Names and float32 values as llama.cpp's converter gives them."""
    config = model.config
    names = gguf.get_tensor_name_map(arch.gguf_arch, config.num_hidden_layers)
    tensors = {name: value.numpy() for name, value in model.state_dict().items()}
    if config.tie_word_embeddings:
        del tensors["lm_head.weight"]
    out = {}
    for name, array in arch.convert(tensors, config).items():
        stem, _, suffix = name.rpartition(".")
        # Names that the package no longer has, but files do, a row's `convert` gives as they are.
        found = stem if stem.startswith("blk.") else names.get_name(stem)
        assert found is not None, stem
        out[f"{found}.{suffix}"] = np.ascontiguousarray(array, np.float32)
    return out | (arch.extra(config) if arch.extra is not None else {})


def write_gguf(
    arch: Arch,
    model: PreTrainedModel,
    path: Path,
    quant: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    *,
    only: str = ".weight",
) -> Path:
    """A GGUF file of the model; matrices whose name ends with `only` in `quant`, others in F32."""
    w = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch.gguf_arch])
    for key, value in (_common(model.config) | dict(arch.metadata)).items():
        add = {
            str: w.add_string,
            float: w.add_float32,
            int: w.add_uint32,
            bool: w.add_bool,
            list: w.add_array,
        }  # by exact type: a bool is an int as well
        if value is not None:
            add[type(value)](f"{gguf.MODEL_ARCH_NAMES[arch.gguf_arch]}.{key}", value)
    for name, array in gguf_tensors(arch, model).items():
        plain = array.ndim == 1 or re.search(NEVER_PACKED, name) or not name.endswith(only)
        if plain or quant == gguf.GGMLQuantizationType.F32:
            w.add_tensor(name, array)
        else:
            w.add_tensor(name, gguf.quants.quantize(array, quant), raw_dtype=quant)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path


def _common(c: PretrainedConfig) -> dict[str, Any]:
    """Metadata that every converter writes; a row's `metadata` replaces (None: removes) it."""
    c = copy.copy(c)  # HF asks that whoever reads what differs by layer says so
    c.allow_global_per_layer_attribute_access = True
    heads = getattr(c, "num_attention_heads", None)  # None: a model without attention
    head_dim = getattr(c, "head_dim", None) or (c.hidden_size // heads if heads else None)
    keys: dict[str, Any] = {
        "context_length": getattr(c, "max_position_embeddings", None),
        "embedding_length": c.hidden_size,
        "block_count": c.num_hidden_layers,
        "feed_forward_length": getattr(c, "intermediate_size", None),
        "attention.head_count": heads,
        "attention.head_count_kv": getattr(c, "num_key_value_heads", None),
        "attention.layer_norm_rms_epsilon": getattr(c, "rms_norm_eps", None),
        "attention.layer_norm_epsilon": getattr(c, "layer_norm_eps", None),
        "rope.freq_base": 10000.0 if heads else None,
        "rope.dimension_count": head_dim,
        "vocab_size": c.vocab_size,
    }
    if heads and head_dim * heads != c.hidden_size:
        keys |= {"attention.key_length": head_dim, "attention.value_length": head_dim}
    return keys
