"""Configs of RWKV 5, 6 and 7 as transformers' classes, which transformers does not have.

Without `from __future__ import annotations`: the decorator checks values against types.
"""

from typing import Any

from huggingface_hub.dataclasses import strict
from transformers import PretrainedConfig


@strict
class Rwkv5Config(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Keys and defaults of `configuration_rwkv5.py` in RWKV/rwkv-5-world-1b5."""

    model_type = "rwkv5"

    vocab_size: int = 65536
    hidden_size: int = 768
    num_hidden_layers: int = 24
    attention_hidden_size: int | None = None
    head_size: int = 64
    head_size_divisor: int = 8
    intermediate_size: int | None = None
    layer_norm_epsilon: float = 1e-5
    rescale_every: int = 6  # halves numbers that overflow in 16 bits; changes no result
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 0
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False


@strict
class Rwkv6Config(Rwkv5Config):  # type: ignore[no-untyped-call]
    """The same of RWKV/rwkv-6-world-1b6."""

    model_type = "rwkv6"


@strict
class Rwkv7Config(PretrainedConfig):  # type: ignore[no-untyped-call]
    """Keys and defaults of fla's class for RWKV 7 (flash-linear-attention 0.6)."""

    model_type = "rwkv7"

    vocab_size: int = 32000
    hidden_size: int = 2048
    hidden_ratio: float | int | None = 4
    intermediate_size: int | None = None
    num_hidden_layers: int = 24
    head_dim: int | None = 64
    num_heads: int | None = None
    decay_low_rank_dim: int | None = 64
    gate_low_rank_dim: int | None = 128
    a_low_rank_dim: int | None = 64
    v_low_rank_dim: int | None = 16
    hidden_act: str = "sqrelu"
    max_position_embeddings: int = 2048
    norm_first: bool = True
    norm_bias: bool = True
    norm_eps: float = 1e-5
    attn: dict[str, Any] | None = None
    value_dim: int | list[int] | None = None
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2
    pad_token_id: int | None = None
    tie_word_embeddings: bool = False


def rank(given: int | None, c: Rwkv7Config, factor: float) -> int:
    """A low rank; null is fla's rule, `factor` times the root of the width, in steps of 32."""
    return given or max(32, round(factor * c.hidden_size**0.5 / 32) * 32)


def inner_of(c: Rwkv5Config) -> int:
    """Columns of all heads of RWKV 5 or 6."""
    return c.attention_hidden_size or c.hidden_size


def size_of(c: Rwkv7Config) -> int:
    """Columns of a head of RWKV 7."""
    if c.head_dim is not None:
        return c.head_dim
    assert c.num_heads is not None
    return c.hidden_size // c.num_heads
