"""Whole prompts by torch's own attention: cuDNN's kernel, the fastest one where it may be used."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

BACKENDS = [SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.MATH]


def attend_prompts(
    q: Tensor, k: Tensor, v: Tensor, lengths: Sequence[int], *, heads: int, scale: float
) -> Tensor:
    """Causal attention of whole sequences, one after another: q [N, heads * k_dim], k [N, kv_heads
    * k_dim], v [N, kv_heads * v_dim] -> [N, heads * v_dim].

    lengths: on the host; they sum to N. For steps in which every sequence begins at position 0 and
    whose layer has no other option (window, chunk, cap, slopes, sinks). One call if all lengths are
    equal, else one for each sequence. Rows may have any stride (v may be a view of the packed
    projection). bf16 and f16 only: in float32 torch would materialise the scores.
    """
    assert q.dtype in (torch.bfloat16, torch.float16)
    group = q.shape[1] // heads
    kv_heads = k.shape[1] // group
    parts = [len(lengths)] if len(set(lengths)) == 1 else [1] * len(lengths)
    out = torch.empty((q.shape[0], heads, v.shape[1] // kv_heads), dtype=q.dtype, device=q.device)
    first = 0
    with sdpa_kernel(BACKENDS, set_priority=True):
        for part, length in zip(parts, lengths, strict=False):
            rows = slice(first, first + part * length)
            first = rows.stop
            cut = [
                x[rows].unflatten(1, (count, -1)).unflatten(0, (part, length)).transpose(1, 2)
                for x, count in ((q, heads), (k, kv_heads), (v, kv_heads))
            ]
            got = scaled_dot_product_attention(
                cut[0], cut[1], cut[2], is_causal=True, scale=scale, enable_gqa=kv_heads < heads
            )
            if len(parts) == 1:
                return got.transpose(1, 2).reshape(q.shape[0], -1)
            out[rows] = got.transpose(1, 2).flatten(0, 1)
    return out.flatten(1)
