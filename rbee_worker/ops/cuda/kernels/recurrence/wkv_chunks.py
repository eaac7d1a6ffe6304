"""The recurrence of RWKV 5 and 6 by chunks of rows: `Wkv.wkv` of prompts.

What rows of a chunk give each other are products of their r and k, weighted by the decay between
them (`decayed.py`); they are computed for all chunks side by side. A program then goes through the
chunks of a sequence with some value columns of one head, whose states it keeps in registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import CELL, scan_shape
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.recurrence.decayed import logarithms, rows_of, write_products
from rbee_worker.ops.cuda.kernels.recurrence.exact import both_dot, left_dot, way
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row
from rbee_worker.ops.cuda.kernels.recurrence.segments import places

FROM = 64  # rows of the longest sequence from which on chunks are faster
ROWS = 64  # of a chunk
_COLUMNS, _WARPS = 32, 4  # of a program where there are few, else both twice as many
_PROGRAMS = 264  # from which on there are many


@triton.jit
def _weights(
    r, k, decay, base, bonus, starts, weights, from_, into, wholes, r_stride, k_stride,
    decay_stride, heads, SIZE: tl.constexpr, SP: tl.constexpr, KIND: tl.constexpr,
    ROWS: tl.constexpr, WAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (chunks, heads, sequences): what rows of a chunk give each other; r decayed from the
    chunk's start on, k to its end, and the decay of all of it."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, i = tl.arange(0, SP), tl.arange(0, ROWS)
    live, key = n < SIZE, head * SIZE + n
    raw = tl.load(base + key, mask=live, other=0.0)
    extra = tl.load(bonus + key, mask=live, other=0.0)
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    place = (start // ROWS + seq + tl.program_id(0)) * heads + head
    start += tl.program_id(0) * ROWS
    if start >= end:
        return
    to = weights + place * ROWS * ROWS
    write_products(
        r, r_stride, k, k_stride, decay, decay_stride, raw, extra, to, start, end, key, live, KIND,
        False, SP, ROWS, WAY,
    )  # fmt: skip
    t = start + i
    end = tl.minimum(end, start + ROWS)
    before = logarithms(decay, decay_stride, raw, t - 1, start, end, key, live, KIND)
    behind = logarithms(decay, decay_stride, raw, t + 1, start, end, key, live, KIND)
    at = place * ROWS * SP + i[:, None] * SP + n[None, :]
    here = rows_of(r, r_stride, t, end, key, live) * tl.exp(tl.cumsum(before, 0))
    tl.store(from_ + at, here)
    keys = rows_of(k, k_stride, t, end, key, live)
    tl.store(into + at, keys * tl.exp(tl.cumsum(behind, 0, reverse=True)))
    every = logarithms(decay, decay_stride, raw, t, start, end, key, live, KIND)
    tl.store(wholes + place * SP + n, tl.exp(tl.sum(every, 0)))


@triton.jit
def _chunks(
    v, weights, from_, into, wholes, state, slots, starts, out, v_stride, heads, SIZE: tl.constexpr,
    CELLS: tl.constexpr, SP: tl.constexpr, CELL: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of columns, heads, sequences)."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, i = tl.arange(0, SP), tl.arange(0, ROWS)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of the head
    inside, col = column < SIZE, head * SIZE + column
    upto = i[:, None] >= i[None, :]
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    place = (start // ROWS + seq) * heads + head
    kept = state + (tl.load(slots + seq) * heads + head) * CELLS * SIZE * CELL
    kept += ((column // CELL)[None, :] * SIZE + n[:, None]) * CELL + (column % CELL)[None, :]
    own = (n < SIZE)[:, None] & (column < CELLS * CELL)[None, :]
    h = tl.load(kept, mask=own, other=0.0)
    for first in range(start, end, ROWS):
        t = first + i
        of_out = (t < end)[:, None] & inside[None, :]
        value = tl.load(v + t[:, None] * v_stride + col[None, :], mask=of_out, other=0.0)
        at = weights + place * ROWS * ROWS + i[:, None] * ROWS + i[None, :]
        weight = tl.load(at, mask=upto & (t < end)[:, None], other=0.0)
        at = place * ROWS * SP + i[:, None] * SP + n[None, :]
        y = left_dot(weight, value, WAY) + both_dot(tl.load(from_ + at), h, WAY)
        to = out + t[:, None] * heads * SIZE + col[None, :]
        tl.store(to, y.to(out.dtype.element_ty), mask=of_out)
        inflow = left_dot(tl.trans(tl.load(into + at)), value, WAY)
        h = tl.load(wholes + place * SP + n)[:, None] * h + inflow
        place += heads
    tl.store(kept, h, mask=own)


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
    cells, padded = scan_shape(size, size)[0], max(16, power_of_two(size))
    count = places(sequences, n, ROWS) * heads
    weights = torch.empty((count, ROWS, ROWS), dtype=torch.float32, device=v.device)
    rows = torch.empty((2, count, ROWS, padded), dtype=torch.float32, device=v.device)
    wholes = torch.empty((count, padded), dtype=torch.float32, device=v.device)
    how = {
        "SIZE": size, "SP": padded, "ROWS": ROWS, "WAY": way(v.dtype), "num_stages": 1,
        **dependent(pdl),
    }  # fmt: skip
    _weights[(triton.cdiv(max(sequences.longest, 1), ROWS), heads, sequences.number)](
        r, k, decay, base, bonus, sequences.starts, weights, rows[0], rows[1], wholes, r.stride(0),
        k.stride(0), 0 if decay is None else decay.stride(0), heads,
        KIND="fixed" if decay is None else "moving", num_warps=2, **how,
    )  # fmt: skip
    many = sequences.number * heads * triton.cdiv(size, _COLUMNS) >= _PROGRAMS
    block = min((1 + many) * _COLUMNS, power_of_two(cells * CELL))
    _chunks[(triton.cdiv(size, block), heads, sequences.number)](
        v, weights, rows[0], rows[1], wholes, state, sequences.slots, sequences.starts, out,
        v.stride(0), heads, CELLS=cells, CELL=CELL, BLOCK=block,
        num_warps=(1 + (block > _COLUMNS)) * _WARPS, **how,
    )  # fmt: skip
    return out
