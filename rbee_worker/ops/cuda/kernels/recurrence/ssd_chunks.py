"""Mamba 2's recurrence by chunks of rows: `Recurrences.ssd` of prompts.

Dao and Gu 2024, section 6: in a chunk the result is a product of matrices (c b^T, each number
weighted by the decay between its two rows) x, to which comes what the state before the chunk gives.
A program goes through the chunks of one sequence with some columns of one head, whose states it
keeps in registers.

No step uses it yet: docs/gpu.md says what was found on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import CELL, scan_shape
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.recurrence.exact import (
    left_dot,
    right_dot,
    rows_dot,
    sums_between,
    way,
)
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row, silu, softplus

_ROWS = 64  # of a chunk
_COLUMNS, _WARPS = 32, 4  # of a program where there are few, else both twice as many
_PROGRAMS = 264  # from which on there are many


@triton.jit
def _chunks(
    x, dt, b, c, gate, bias, rates, skip, state, slots, starts, out, columns, x_stride, dt_stride,
    b_stride, c_stride, gate_stride, heads, STATES: tl.constexpr, CELLS: tl.constexpr,
    PER_GROUP: tl.constexpr, GATED: tl.constexpr, SP: tl.constexpr, CELL: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of columns, heads, sequences); see `state_space._space`."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, r = tl.arange(0, SP), tl.arange(0, ROWS)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of the head
    live, inside = n < STATES, column < columns
    col, shared = head * columns + column, (head // PER_GROUP) * STATES + n
    rate, offset = tl.load(rates + head), tl.load(bias + head)
    factor = tl.load(skip + head)
    earlier = r[:, None] >= r[None, :]
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    kept = state + (tl.load(slots + seq) * heads + head) * CELLS * STATES * CELL
    kept += ((column // CELL)[None, :] * STATES + n[:, None]) * CELL + (column % CELL)[None, :]
    own = live[:, None] & (column < CELLS * CELL)[None, :]
    h = tl.load(kept, mask=own, other=0.0)
    for first in range(start, end, ROWS):
        t = first + r
        there = t < end
        of_state = there[:, None] & live[None, :]
        of_out = there[:, None] & inside[None, :]
        size = softplus(tl.load(dt + t * dt_stride + head, mask=there, other=0.0).to(tl.float32)
                        + offset)  # fmt: skip
        size = tl.where(there, size, 0.0)
        into = tl.load(b + t[:, None] * b_stride + shared[None, :], mask=of_state, other=0.0)
        from_ = tl.load(c + t[:, None] * c_stride + shared[None, :], mask=of_state, other=0.0)
        value = tl.load(x + t[:, None] * x_stride + col[None, :], mask=of_out, other=0.0)
        between, upto = sums_between(size * rate, ROWS)
        whole = tl.sum(size, 0) * rate
        weight = tl.where(earlier, tl.exp(between), 0.0) * size[None, :]
        weight *= rows_dot(from_, tl.trans(into), WAY)
        y = left_dot(weight, value, WAY)
        y += tl.exp(upto)[:, None] * right_dot(from_, h, WAY)
        values = value.to(tl.float32)
        y += factor * values
        if GATED:
            at = gate + t[:, None] * gate_stride + col[None, :]
            y *= silu(tl.load(at, mask=of_out, other=0.0).to(tl.float32))
        to = out + t[:, None] * columns * heads + col[None, :]
        tl.store(to, y.to(out.dtype.element_ty), mask=of_out)
        # the last row of `between` has the sums from behind each row to the end
        left = tl.sum(tl.where((r == ROWS - 1)[:, None], between, 0.0), 0)
        inflow = (tl.exp(left) * size)[:, None] * values
        h = tl.exp(whole) * h + right_dot(tl.trans(into), inflow, WAY)
    tl.store(kept, h, mask=own)


def ssd_chunks(
    x: Tensor,
    dt: Tensor,
    b: Tensor,
    c: Tensor,
    gate: Tensor | None,
    bias: Tensor,
    rates: Tensor,
    skip: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    groups: int = 1,
    pdl: bool = False,
) -> Tensor:
    """See `state_space.ssd`; results depend on where a step ends, in their last bits."""
    (n, width), heads = x.shape, dt.shape[1]
    out = torch.empty((n, width), dtype=x.dtype, device=x.device)
    columns, states = width // heads, b.shape[1] // groups
    cells = scan_shape(states, columns)[0]
    assert state.shape[1:] == scan_shape(states, columns, heads)
    gated, gate = gate is not None, x if gate is None else gate
    x, dt, b, c, gate = map(by_row, (x, dt, b, c, gate))
    many = sequences.number * heads * triton.cdiv(columns, _COLUMNS) >= _PROGRAMS
    block = min((1 + many) * _COLUMNS, power_of_two(cells * CELL))
    _chunks[(triton.cdiv(columns, block), heads, sequences.number)](
        x, dt, b, c, gate, bias, rates, skip, state, sequences.slots, sequences.starts, out,
        columns, x.stride(0), dt.stride(0), b.stride(0), c.stride(0), gate.stride(0), heads,
        STATES=states, CELLS=cells, PER_GROUP=heads // groups, GATED=gated,
        SP=max(16, power_of_two(states)), CELL=CELL, ROWS=_ROWS, BLOCK=block, WAY=way(x.dtype),
        num_warps=(1 + (block > _COLUMNS)) * _WARPS, num_stages=1, **dependent(pdl),
    )  # fmt: skip
    return out
