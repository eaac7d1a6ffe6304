"""The recurrence of RWKV 5 and 6 by chunks of rows: `Wkv.wkv` of prompts.

What rows of a chunk give each other are products of their r and k, weighted by the decay between
them (`decayed.py`); `_weights` computes them for all chunks side by side, `chunks.carry` the states
before each chunk, `chunks.results` all rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import scan_shape
from rbee_worker.ops.cuda.kernels.recurrence.chunks import ROWS, Chunks, Tile, begin, carry, results
from rbee_worker.ops.cuda.kernels.recurrence.decayed import logarithms, rows_of, write_products
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row

FROM = 512  # rows of the longest of few sequences from which on chunks are faster
_FEW = Tile(32, 4, 3)
_WARPS = 4


@triton.jit
def _weights(
    r, k, decay, base, bonus, starts, weights, from_, into, wholes, r_stride, k_stride,
    decay_stride, heads, SIZE: tl.constexpr, SP: tl.constexpr, KIND: tl.constexpr,
    ROWS: tl.constexpr, WAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (5 * chunks, heads, sequences): what 16 rows of a chunk get from others; or r decayed
    from the chunk's start on, k to its end, and the decay of all of it."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, i = tl.arange(0, SP), tl.arange(0, ROWS)
    live, key = n < SIZE, head * SIZE + n
    raw = tl.load(base + key, mask=live, other=0.0)
    if PDL:
        gdc_wait()
    chunk, block = tl.program_id(0) // 5, tl.program_id(0) % 5
    place, start, end = begin(starts, seq, chunk, head, heads, ROWS)
    if start + (block % 4) * 16 >= end:
        return
    if block < 4:
        write_products(
            r, r_stride, k, k_stride, decay, decay_stride, base, bonus,
            weights + place * ROWS * ROWS, block, start, end, head * SIZE, SIZE, KIND, SP, ROWS,
            WAY,
        )  # fmt: skip
        return
    t = start + i
    before = logarithms(decay, decay_stride, raw, t - 1, start, end, key, live, KIND)
    behind = logarithms(decay, decay_stride, raw, t + 1, start, end, key, live, KIND)
    at = place * ROWS * SP + i[:, None] * SP + n[None, :]
    here = rows_of(r, r_stride, t, end, key, live) * tl.exp(tl.cumsum(before, 0))
    tl.store(from_ + at, here.to(from_.dtype.element_ty))
    keys = rows_of(k, k_stride, t, end, key, live)
    tl.store(into + at, keys * tl.exp(tl.cumsum(behind, 0, reverse=True)))
    every = logarithms(decay, decay_stride, raw, t, start, end, key, live, KIND)
    tl.store(wholes + place * SP + n, tl.exp(tl.sum(every, 0)))


def wkv_chunks(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor | None,
    base: Tensor,
    bonus: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    heads: int,
    pdl: bool = False,
) -> Tensor:
    """See `wkv.wkv`; results depend on where a step ends, in their last bits."""
    n, width = v.shape
    size = width // heads
    assert state.shape[1:] == scan_shape(size, size, heads)
    r, k, v = map(by_row, (r, k, v))
    decay = None if decay is None else by_row(decay)
    out = torch.empty((n, width), dtype=v.dtype, device=v.device)
    chunks = Chunks(
        sequences, n, heads=heads, columns=size, states=size, dtype=v.dtype, device=v.device,
        pdl=pdl,
    )  # fmt: skip
    weights, from_ = (chunks.empty(ROWS, last, brief=True) for last in (ROWS, chunks.padded))
    into, wholes = chunks.empty(ROWS, chunks.padded), chunks.empty(chunks.padded)
    number, _, count = chunks.grid
    _weights[(5 * number, heads, count)](
        r, k, decay, base, bonus, sequences.starts, weights, from_, into, wholes, r.stride(0),
        k.stride(0), 0 if decay is None else decay.stride(0), heads, SIZE=size,
        KIND="fixed" if decay is None else "moving", WAY=chunks.way, num_warps=_WARPS, num_stages=1,
        **chunks.how,
    )  # fmt: skip
    firsts = carry(chunks, v, into, None, wholes, state, few=_FEW)
    results(chunks, from_, None, firsts, out, value=(weights, v))
    return out
