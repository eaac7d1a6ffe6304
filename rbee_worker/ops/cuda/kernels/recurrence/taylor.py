"""Based's linear attention: `Taylor.taylor`.

A program has the states of one cell (`ops/cells.py`): 16 columns of one head, the sums of the
weights among them. A second kernel divides by these.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import CELL, scan_shape
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row
from rbee_worker.ops.taylor import taylor_states


@triton.jit
def _taylor(
    q, k, v, state, slots, starts, sums, columns, q_stride, k_stride, v_stride, heads, scale,
    SIZE: tl.constexpr, STATES: tl.constexpr, CELLS: tl.constexpr, SP: tl.constexpr,
    CELL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """sums [N, heads, columns + 1] of one cell of one sequence, row by row."""
    if PDL:
        gdc_launch_dependents()
    seq, cell = tl.program_id(0), tl.program_id(1)
    n, c = tl.arange(0, SP), tl.arange(0, CELL)
    # State n is of columns i and j <= i of a key, counted from 1; 0 stands for the number 1.
    i = (n > 0).to(tl.int32)
    for one in tl.static_range(2, SIZE + 1):
        i += (n - 1 >= (one - 1) * (one + 2) // 2).to(tl.int32)
    j = tl.where(n > 0, n - 1 - (i - 1) * (i + 2) // 2, 0)
    live = n < STATES
    half = tl.where((i == j) & (i > 0), 0.5, 1.0)  # of x^2 / 2
    head = cell // CELLS
    column = (cell % CELLS) * CELL + c  # of the head; the last one is of the weights
    inside = column < columns
    i_at, j_at = head * SIZE + i - 1, head * SIZE + j - 1
    has_i, has_j = live & (i > 0), live & (j > 0)
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    kept = state + (tl.load(slots + seq) * heads * CELLS + cell) * STATES * CELL
    kept += n[:, None] * CELL + c[None, :]
    own = live[:, None] & (c < CELL)[None, :]
    h = tl.load(kept, mask=own, other=0.0)
    for t in range(start, end):
        key = tl.load(k + t * k_stride + i_at, mask=has_i, other=1.0).to(tl.float32)
        key = key * tl.load(k + t * k_stride + j_at, mask=has_j, other=1.0).to(tl.float32)
        weight = tl.where(
            has_i,
            tl.load(q + t * q_stride + i_at, mask=has_i, other=1.0).to(tl.float32) * scale,
            1.0,
        ) * tl.where(
            has_j,
            tl.load(q + t * q_stride + j_at, mask=has_j, other=1.0).to(tl.float32) * scale,
            1.0,
        )
        weight = tl.where(live, weight * half, 0.0)
        value = tl.load(v + t * v_stride + head * columns + column, mask=inside, other=1.0)
        h = h + key[:, None] * value.to(tl.float32)[None, :]
        y = tl.sum(h * weight[:, None], 0)
        to = sums + (t * heads + head) * (columns + 1) + column
        tl.store(to, y, mask=column <= columns)
    h = tl.where((column <= columns)[None, :], h, 0.0)
    tl.store(kept, h, mask=own)


@triton.jit
def _divided(sums, out, columns, BLOCK: tl.constexpr, PDL: tl.constexpr):
    """One program a row and head."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, c = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    y = tl.load(sums + row * (columns + 1) + c, mask=c < columns, other=0.0)
    y = y / tl.load(sums + row * (columns + 1) + columns)
    tl.store(out + row * columns + c, y.to(out.dtype.element_ty), mask=c < columns)


def taylor(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    heads: int,
    pdl: bool = False,
) -> Tensor:
    """See `Taylor.taylor`; state: float32 [slots, *scan_shape(taylor_states(size), columns + 1,
    heads)]."""
    n, width = v.shape
    size, columns = q.shape[1] // heads, width // heads
    states = taylor_states(size)
    assert state.shape[1:] == scan_shape(states, columns + 1, heads)
    out = torch.empty((n, width), dtype=v.dtype, device=v.device)
    if not n:
        return out
    q, k, v = map(by_row, (q, k, v))
    sums = torch.empty((n, heads * (columns + 1)), dtype=torch.float32, device=v.device)
    cells, padded = scan_shape(states, columns + 1)[0], power_of_two(states)
    _taylor[(sequences.number, heads * cells)](
        q, k, v, state, sequences.slots, sequences.starts, sums, columns, q.stride(0), k.stride(0),
        v.stride(0), heads, size**-0.5, SIZE=size, STATES=states, CELLS=cells, SP=padded, CELL=CELL,
        num_warps=max(1, min(8, padded // 32)), enable_fp_fusion=False, **dependent(pdl),
    )  # fmt: skip
    _divided[(n * heads,)](
        sums, out, columns, BLOCK=power_of_two(columns), num_warps=1, **dependent(pdl)
    )
    return out
