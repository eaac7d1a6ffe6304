"""Whole prompts of one length by cuDNN, which is 1.6 to 2 times as fast there as our own kernel."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

LEAST = 256  # rows from which on it pays
_MOST_DIM = 128


def can(q: Tensor, keys: Tensor, values: Tensor, length: int) -> bool:
    """Can these be computed so? length: the rows of each sequence."""
    return (
        q.is_cuda
        and q.dtype in (torch.bfloat16, torch.float16)
        and keys.dtype == values.dtype == q.dtype
        and length >= LEAST
        and keys.shape[3] == values.shape[3] <= _MOST_DIM
        and keys.shape[3] % 8 == 0
    )


def whole_prompts(
    q: Tensor, keys: Tensor, values: Tensor, table: Tensor, *, heads: int, length: int, scale: float
) -> Tensor:
    """Causal attention of sequences that all have `length` keys and as many rows.

    q [B * length, heads * dim], keys and values [blocks, block_size, kv_heads, dim], table int32
    [B, columns] -> [B * length, heads * dim].
    """
    batch, (_, size, _, dim) = len(q) // length, keys.shape
    blocks = table[:batch, : -(-length // size)].long()
    k, v = (
        cache[blocks].flatten(1, 2)[:, :length].transpose(1, 2) for cache in (keys, values)
    )
    with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
        out = scaled_dot_product_attention(
            q.view(batch, length, heads, dim).transpose(1, 2),
            k,
            v,
            is_causal=True,
            scale=scale,
            enable_gqa=heads != keys.shape[2],
        )
    return out.transpose(1, 2).reshape(len(q), heads * dim)
