"""The table of tiny configs: one row a variant, each drives every check of test_archs.py.

The oracle is HF transformers in float32 with the same random weights; GGUF files are written by
the `gguf` package from those weights, with llama.cpp's names and its permutation of q and k.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from transformers import PretrainedConfig, PreTrainedModel

VOCAB = 211


@dataclass(frozen=True, eq=False)
class Arch:
    """A row: HF's config and model class, and llama.cpp's name for it (None: no such file)."""

    id: str
    model: type[PreTrainedModel]
    config: Callable[[], PretrainedConfig]
    gguf_arch: int | None = None
    permuted: bool = False
    metadata: dict[str, Any] = field(default_factory=dict)  # GGUF keys beyond the common ones
    rope_freqs: Callable[[PretrainedConfig], np.ndarray] | None = None
    prompt: int = 70


def _llama(**changes: Any) -> Callable[[], PretrainedConfig]:
    def make() -> PretrainedConfig:
        base: dict[str, Any] = {
            "vocab_size": VOCAB,
            "hidden_size": 64,
            "intermediate_size": 96,
            "num_hidden_layers": 3,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 256,
            "rms_norm_eps": 1e-5,
            "bos_token_id": 1,
            "eos_token_id": 2,
        }
        return transformers.LlamaConfig(**{**base, **changes})

    return make


def _mistral(**changes: Any) -> Callable[[], PretrainedConfig]:
    def make() -> PretrainedConfig:
        shape = {k: v for k, v in _llama()().to_dict().items() if k in _SHAPE}
        return transformers.MistralConfig(**{**shape, "head_dim": 16, **changes})

    return make


_SHAPE = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "max_position_embeddings",
    "rms_norm_eps",
    "bos_token_id",
    "eos_token_id",
)


def _rope(kind: str, **values: float) -> dict[str, Any]:
    return {"rope_type": kind, "rope_theta": 10000.0, **values}


LLAMA3 = _rope(
    "llama3",
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)


def llama3_divisors(config: PretrainedConfig) -> np.ndarray:
    """The `rope_freqs` tensor llama.cpp's converter writes: plain / scaled frequency."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    dim = config.hidden_size // config.num_attention_heads
    plain = 1.0 / (10000.0 ** (torch.arange(0, dim, 2, dtype=torch.int64).float() / dim))
    return (plain / scaled).numpy().astype(np.float32)


L = transformers.LlamaForCausalLM
M = transformers.MistralForCausalLM
LLAMA = gguf.MODEL_ARCH.LLAMA

ARCHS: tuple[Arch, ...] = (
    Arch("llama", L, _llama(), LLAMA, True),
    Arch("llama-mha", L, _llama(num_key_value_heads=4), LLAMA, True),
    Arch("llama-tied", L, _llama(tie_word_embeddings=True), LLAMA, True),
    Arch("llama-bias", L, _llama(attention_bias=True, mlp_bias=True), LLAMA, True),
    Arch("llama-head-dim", L, _llama(head_dim=24), LLAMA, True),
    Arch(
        "llama3",
        L,
        _llama(rope_parameters=LLAMA3, tie_word_embeddings=True),
        LLAMA,
        True,
        rope_freqs=llama3_divisors,
    ),
    Arch(
        "llama-linear",
        L,
        _llama(rope_parameters=_rope("linear", factor=4.0)),
        LLAMA,
        True,
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    Arch(
        "llama-dynamic",
        L,
        _llama(rope_parameters=_rope("dynamic", factor=2.0), max_position_embeddings=40),
    ),
    Arch(
        "llama-yarn",
        L,
        _llama(rope_parameters=_rope("yarn", factor=4.0, original_max_position_embeddings=32)),
        LLAMA,
        True,
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 32,
        },
    ),
    Arch("mistral", M, _mistral(sliding_window=None), LLAMA, True),
    Arch("mistral-window", M, _mistral(sliding_window=24)),
    Arch("mistral-nemo", M, _mistral(sliding_window=None, head_dim=32), LLAMA, True),
    Arch(
        "yi",
        L,
        _llama(rope_parameters=_rope("default") | {"rope_theta": 5e6}, num_attention_heads=8),
        LLAMA,
        True,
        {"rope.freq_base": 5e6},
    ),
)


@cache
def oracle(arch: Arch) -> PreTrainedModel:
    """The HF model with random weights, float32; biases and norms random too, seeded."""
    torch.manual_seed(7)
    model = arch.model(arch.config()).float().eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim == 1:
                p.copy_(torch.randn_like(p) * 0.3 + (1.0 if "norm" in name else 0.0))
            else:
                p.mul_(4.0)  # HF's 0.02 gives nearly linear blocks: errors would hide
    return model


def write_safetensors(model: PreTrainedModel, folder: Path) -> Path:
    """HF's own files, with a byte-level stand-in for the tokenizer."""
    model.save_pretrained(folder)
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


def gguf_tensors(arch: Arch, model: PreTrainedModel) -> dict[str, np.ndarray]:
    """Names and float32 values as llama.cpp's converter gives them."""
    config = model.config
    names = gguf.get_tensor_name_map(arch.gguf_arch, config.num_hidden_layers)
    out = {}
    for name, value in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, _, suffix = name.rpartition(".")
        array = value.numpy()
        if arch.permuted and stem.endswith("q_proj"):
            array = permute(array, config.num_attention_heads)
        if arch.permuted and stem.endswith("k_proj"):
            array = permute(array, config.num_key_value_heads)
        out[f"{names.get_name(stem)}.{suffix}"] = np.ascontiguousarray(array)
    if arch.rope_freqs is not None:
        out["rope_freqs.weight"] = arch.rope_freqs(config)
    return out


def write_gguf(
    arch: Arch,
    model: PreTrainedModel,
    path: Path,
    quant: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
) -> Path:
    """A GGUF file of the model; matrices in `quant`, vectors in F32."""
    c = model.config
    head_dim = getattr(c, "head_dim", None) or c.hidden_size // c.num_attention_heads
    w = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch.gguf_arch])
    w.add_context_length(c.max_position_embeddings)
    w.add_embedding_length(c.hidden_size)
    w.add_block_count(c.num_hidden_layers)
    w.add_feed_forward_length(c.intermediate_size)
    w.add_head_count(c.num_attention_heads)
    w.add_head_count_kv(c.num_key_value_heads)
    w.add_layer_norm_rms_eps(c.rms_norm_eps)
    w.add_rope_freq_base(arch.metadata.get("rope.freq_base", 10000.0))
    w.add_rope_dimension_count(head_dim)
    if head_dim * c.num_attention_heads != c.hidden_size:
        w.add_key_length(head_dim)
        w.add_value_length(head_dim)
    w.add_vocab_size(c.vocab_size)
    for key, value in arch.metadata.items():
        if key != "rope.freq_base":
            add = {str: w.add_string, float: w.add_float32, int: w.add_uint32}[type(value)]
            add(f"{gguf.MODEL_ARCH_NAMES[arch.gguf_arch]}.{key}", value)
    for name, array in gguf_tensors(arch, model).items():
        if array.ndim == 1 or quant == gguf.GGMLQuantizationType.F32:
            w.add_tensor(name, array.astype(np.float32))
        else:
            w.add_tensor(name, gguf.quants.quantize(array, quant), raw_dtype=quant)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    return path
