"""The recurrences of Mamba and Mamba 2: `Recurrences.selective_scan` and `ssd`.

A program has the states of one cell (`ops/cells.py`): 16 columns of one head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import CELL, scan_shape
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row, silu, softplus
from rbee_worker.ops.cuda.kernels.recurrence.segments import first_states, segment_rows


@triton.jit
def next_row(h, decay, size, value, into, from_, factor):
    """The states [states, CELL] after a row, and what the row gives; decay: of the states, size: of
    the step, value: x, into: b, from_: c, factor: of x itself."""
    inflow = (size * value)[None, :] * into[:, None]
    h = decay * h + inflow
    return h, tl.sum(h * from_[:, None], 0) + factor * value


@triton.jit
def _space(
    x, dt, b, c, gate, bias, rates, skip, state, firsts, slots, starts, out, rows, columns,
    x_stride, dt_stride, b_stride, c_stride, gate_stride, heads, STATES: tl.constexpr,
    CELLS: tl.constexpr, PER_GROUP: tl.constexpr, BY_HEAD: tl.constexpr, GATED: tl.constexpr,
    SEGMENTS: tl.constexpr, SP: tl.constexpr, CELL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One cell of one sequence, row by row. BY_HEAD: `ssd`, one step and one rate for a head of
    `columns` columns in CELLS cells; PER_GROUP: heads that share b and c; GATED: there is a
    gate, in whose place is else x, which is not used. SEGMENTS: only a segment of `rows` rows,
    before which the states are in `firsts` (`segments.py`)."""
    if PDL:
        gdc_launch_dependents()
    seq, cell = tl.program_id(0), tl.program_id(1)
    n, i = tl.arange(0, SP), tl.arange(0, CELL)
    head = cell // CELLS
    column = (cell % CELLS) * CELL + i  # of the head
    live = n < STATES
    inside = column < columns
    col = head * columns + column
    own = live[:, None] & (i < CELL)[None, :]
    step_at = col
    steps = inside
    if BY_HEAD:
        step_at = head
        steps = head < heads
    shared = (head // PER_GROUP) * STATES + n
    if BY_HEAD:
        rate = tl.load(rates + head)
        offset = tl.load(bias + head)
        factor = tl.load(skip + head)
    else:
        rate = tl.load(
            rates + (cell * STATES + n[:, None]) * CELL + i[None, :], mask=own, other=0.0
        )
        offset = 0.0
        factor = tl.load(skip + col, mask=inside, other=0.0)
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    kept = state + (tl.load(slots + seq) * heads * CELLS + cell) * STATES * CELL
    kept += n[:, None] * CELL + i[None, :]
    if SEGMENTS:
        part = tl.program_id(2)
        place = start // rows + seq + part
        start += part * rows
        if start >= end:
            return
        own = own & (start + rows >= end)
        end = tl.minimum(start + rows, end)
        before = firsts + (place * CELLS + cell) * STATES * CELL
        before += n[:, None] * CELL + i[None, :]
        h = tl.load(before, mask=live[:, None], other=0.0)
    else:
        h = tl.load(kept, mask=own, other=0.0)
    # The next row is read before this one is used.
    x_at, dt_at, gate_at = x + start * x_stride + col, dt + start * dt_stride + step_at, gate + col
    gate_at += start * gate_stride
    b_at, c_at = b + start * b_stride + shared, c + start * c_stride + shared
    more = start < end
    next_x = tl.load(x_at, mask=inside & more, other=0.0)
    next_dt = tl.load(dt_at, mask=steps & more, other=0.0)
    next_b = tl.load(b_at, mask=live & more, other=0.0)
    next_c = tl.load(c_at, mask=live & more, other=0.0)
    next_gate = tl.load(gate_at, mask=inside & more, other=0.0)
    for t in range(start, end):
        value, g = next_x.to(tl.float32), next_gate.to(tl.float32)
        size = softplus(next_dt.to(tl.float32) + offset)
        into, from_ = next_b.to(tl.float32), next_c.to(tl.float32)
        x_at += x_stride
        dt_at += dt_stride
        b_at += b_stride
        c_at += c_stride
        gate_at += gate_stride
        more = t + 1 < end
        next_x = tl.load(x_at, mask=inside & more, other=0.0)
        next_dt = tl.load(dt_at, mask=steps & more, other=0.0)
        next_b = tl.load(b_at, mask=live & more, other=0.0)
        next_c = tl.load(c_at, mask=live & more, other=0.0)
        next_gate = tl.load(gate_at, mask=inside & more, other=0.0)
        if BY_HEAD:
            decay = tl.exp(size * rate)
        else:
            decay = tl.exp(size[None, :] * rate)
        h, y = next_row(h, decay, size, value, into, from_, factor)
        if GATED:
            y = y * silu(g)
        tl.store(out + t * columns * heads + col, y.to(out.dtype.element_ty), mask=inside)
    h = tl.where(inside[None, :], h, 0.0)
    tl.store(kept, h, mask=own)


def selective_scan(
    x: Tensor,
    dt: Tensor,
    b: Tensor,
    c: Tensor,
    gate: Tensor,
    rates: Tensor,
    skip: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    pdl: bool = False,
) -> Tensor:
    """See `Recurrences.selective_scan`; state: float32 [slots, *scan_shape(states, width)]."""
    return _run(x, dt, b, c, gate, None, rates, skip, state, sequences, heads=1, groups=1, pdl=pdl)


def selective_segments(
    x: Tensor,
    dt: Tensor,
    b: Tensor,
    c: Tensor,
    gate: Tensor,
    rates: Tensor,
    skip: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    pdl: bool = False,
) -> Tensor:
    """`selective_scan` by segments of rows, if there are too few sequences to fill a GPU: results
    depend on where a step ends, in their last bits."""
    rows = segment_rows(sequences, x.shape[0], state.shape[1])
    if rows == 0:
        return selective_scan(x, dt, b, c, gate, rates, skip, state, sequences, pdl=pdl)
    firsts = first_states(x, dt, b, rates, state, sequences, rows=rows, pdl=pdl)
    return _run(
        x, dt, b, c, gate, None, rates, skip, state, sequences, heads=1, groups=1, pdl=pdl,
        firsts=firsts, rows=rows,
    )  # fmt: skip


def ssd(
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
    """See `Recurrences.ssd`; state: float32 [slots, *scan_shape(states, columns, heads)]."""
    heads = dt.shape[1]
    return _run(
        x, dt, b, c, gate, bias, rates, skip, state, sequences, heads=heads, groups=groups, pdl=pdl
    )


def _run(
    x: Tensor,
    dt: Tensor,
    b: Tensor,
    c: Tensor,
    gate: Tensor | None,
    bias: Tensor | None,
    rates: Tensor,
    skip: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    heads: int,
    groups: int,
    pdl: bool,
    firsts: Tensor | None = None,
    rows: int = 0,
) -> Tensor:
    n, width = x.shape
    out = torch.empty((n, width), dtype=x.dtype, device=x.device)
    columns, states = width // heads, b.shape[1] // groups
    cells = scan_shape(states, columns)[0]
    assert state.shape[1:] == scan_shape(states, columns, heads)
    gated, gate = gate is not None, x if gate is None else gate
    x, dt, b, c, gate = map(by_row, (x, dt, b, c, gate))
    padded = power_of_two(states)
    grid = sequences.number, heads * cells, triton.cdiv(sequences.longest, rows) if rows else 1
    _space[grid](
        x, dt, b, c, gate, bias, rates, skip, state, firsts, sequences.slots, sequences.starts, out,
        rows, columns, x.stride(0), dt.stride(0), b.stride(0), c.stride(0), gate.stride(0), heads,
        STATES=states, CELLS=cells, PER_GROUP=heads // groups, BY_HEAD=bias is not None,
        GATED=gated, SEGMENTS=rows > 0,
        SP=padded, CELL=CELL, num_warps=1 if padded <= 32 else 4, enable_fp_fusion=False,
        **dependent(pdl),
    )  # fmt: skip
    return out
