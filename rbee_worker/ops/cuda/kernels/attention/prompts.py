"""Whole prompts by torch's own attention: cuDNN's kernel, the fastest one where it may be used."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]

_LEAST = 256  # rows of a call from which on cuDNN is faster than our own kernel
_MOST = 8  # calls: one for all neighbours of one length


def takes_prompts(x: Tensor, keys: Tensor, values: Tensor, lengths: Sequence[int]) -> bool:
    """Whether `attend_prompts` computes sequences of these lengths, and faster than our own kernel.
    x: any tensor of the step's in the compute type; keys, values: the caches."""
    calls = sum(1 for _ in groupby(lengths))
    return (
        x.is_cuda
        and x.dtype in (torch.bfloat16, torch.float16)
        and keys.dtype == values.dtype == x.dtype
        and keys.shape[3] == values.shape[3] <= 128
        and keys.shape[3] % 8 == 0
        and 0 < calls <= _MOST
        and sum(lengths) >= _LEAST * calls
    )


def attend_prompts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Sequence[int],
    *,
    heads: int,
    scale: float,
    out: Tensor | None = None,
) -> Tensor:
    """Causal attention of whole sequences, one after another: q [N, heads * k_dim], k [N, kv_heads
    * k_dim], v [N, kv_heads * v_dim] -> [N, heads * v_dim], in `out` if that is given.

    lengths: on the host; they sum to N. For sequences that begin at position 0, in a layer that has
    no other option (window, chunk, cap, slopes, sinks). One call for each run of equal lengths.
    Rows may have any stride (v may be a view of the packed projection). bf16 and f16 only: in
    float32 torch would materialise the scores.
    """
    assert q.dtype in (torch.bfloat16, torch.float16)
    kv_heads = k.shape[1] // (q.shape[1] // heads)
    runs = [(length, len(list(same))) for length, same in groupby(lengths)]
    if out is None and len(runs) > 1:
        out = torch.empty(
            (q.shape[0], v.shape[1] // kv_heads * heads), dtype=q.dtype, device=q.device
        )
    first = 0
    with sdpa_kernel(BACKENDS, set_priority=True):
        for length, count in runs:
            rows = slice(first, first + count * length)
            first = rows.stop
            cut = [
                x[rows].unflatten(1, (n, -1)).unflatten(0, (count, length)).transpose(1, 2)
                for x, n in ((q, heads), (k, kv_heads), (v, kv_heads))
            ]
            got = scaled_dot_product_attention(
                cut[0], cut[1], cut[2], is_causal=True, scale=scale, enable_gqa=kv_heads < heads
            )
            whole = got.transpose(1, 2).reshape(count * length, -1)
            if out is None:
                return whole
            out[rows] = whole
    assert out is not None
    return out
