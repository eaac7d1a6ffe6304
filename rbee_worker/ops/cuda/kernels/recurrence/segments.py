"""Segments of the rows of a sequence, computed side by side, for recurrences of prompts in which
each number of the state has a decay of its own: `selective_scan`, `rg_lru` and `linear_scan`.

A row's states are the decayed states before the segment plus what the segment's own rows have added
since. So every segment is first computed from zeros, which gives what it adds and how much it
decays; a short scan over the segments gives the states before each; then all rows are computed
again from these.

Segment k of sequence b has place starts[b] // rows + b + k in the tensors here: no two have the
same, and there are at most N // rows + B.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import CELL
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row, softplus

FROM = 64  # rows of the longest sequence from which on segments are faster
_PROGRAMS = 8192  # of one warp, about twice as many as a GPU runs at a time
_LEAST = 32  # rows of a segment
FILLED = 640  # programs of a step's whole sequences from which on nothing is gained


def segment_rows(sequences: Sequences, count: int, columns: int) -> int:
    """How many rows segments have, so that they fill a GPU; 0: sequences are whole. count: rows of
    the step; columns: programs of a segment."""
    if sequences.number * columns > FILLED:
        return 0
    rows = 16 * triton.cdiv(max(_LEAST, triton.cdiv(count * columns, _PROGRAMS)), 16)
    return 0 if sequences.longest < 2 * rows else rows


def places(sequences: Sequences, count: int, rows: int) -> int:
    """The number of places of `count` rows in segments of `rows`."""
    return count // rows + sequences.number


@triton.jit
def _ends(
    x, dt, b, rates, starts, ends, sizes, rows, columns, x_stride, dt_stride, b_stride,
    STATES: tl.constexpr, CELLS: tl.constexpr, SP: tl.constexpr, CELL: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """What one segment adds to one cell, and the sum of its steps; none for the last segment."""
    if PDL:
        gdc_launch_dependents()
    seq, cell, part = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    n, i = tl.arange(0, SP), tl.arange(0, CELL)
    col, live = cell * CELL + i, n < STATES
    inside = col < columns
    of_cell = n[:, None] * CELL + i[None, :]
    rate = tl.load(rates + cell * STATES * CELL + of_cell, mask=live[:, None], other=0.0)
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    place = start // rows + seq + part
    start += part * rows
    if start + rows >= end:
        return
    x_at, dt_at = x + start * x_stride + col, dt + start * dt_stride + col
    b_at = b + start * b_stride + n
    h, total = tl.zeros([SP, CELL], tl.float32), tl.zeros([CELL], tl.float32)
    next_x = tl.load(x_at, mask=inside, other=0.0)
    next_dt = tl.load(dt_at, mask=inside, other=0.0)
    next_b = tl.load(b_at, mask=live, other=0.0)
    for t in range(rows):
        value, size = next_x.to(tl.float32), softplus(next_dt.to(tl.float32))
        into = next_b.to(tl.float32)
        x_at += x_stride
        dt_at += dt_stride
        b_at += b_stride
        more = t + 1 < rows
        next_x = tl.load(x_at, mask=inside & more, other=0.0)
        next_dt = tl.load(dt_at, mask=inside & more, other=0.0)
        next_b = tl.load(b_at, mask=live & more, other=0.0)
        h = tl.exp(size[None, :] * rate) * h + (size * value)[None, :] * into[:, None]
        total += size
    tl.store(ends + (place * CELLS + cell) * STATES * CELL + of_cell, h, mask=live[:, None])
    tl.store(sizes + (place * CELLS + cell) * CELL + i, total)


@triton.jit
def _firsts(
    ends, sizes, rates, state, slots, starts, rows, STATES: tl.constexpr, CELLS: tl.constexpr,
    SP: tl.constexpr, CELL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One cell of one sequence: what its segments add is replaced with the states before each."""
    if PDL:
        gdc_launch_dependents()
    seq, cell = tl.program_id(0), tl.program_id(1)
    n, i = tl.arange(0, SP), tl.arange(0, CELL)
    own = (n < STATES)[:, None] & (i < CELL)[None, :]
    of_cell = n[:, None] * CELL + i[None, :]
    rate = tl.load(rates + cell * STATES * CELL + of_cell, mask=own, other=0.0)
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    at = (start // rows + seq) * CELLS + cell
    number = tl.cdiv(end - start, rows)
    kept = state + (tl.load(slots + seq) * CELLS + cell) * STATES * CELL
    h = tl.load(kept + of_cell, mask=own, other=0.0)
    more = number > 1
    next_end = tl.load(ends + at * STATES * CELL + of_cell, mask=own & more, other=0.0)
    next_size = tl.load(sizes + at * CELL + i, mask=(i < CELL) & more, other=0.0)
    for k in range(number):
        added, size = next_end, next_size
        more = k + 2 < number
        next_at = at + CELLS
        next_end = tl.load(ends + next_at * STATES * CELL + of_cell, mask=own & more, other=0.0)
        next_size = tl.load(sizes + next_at * CELL + i, mask=(i < CELL) & more, other=0.0)
        tl.store(ends + at * STATES * CELL + of_cell, h, mask=own)
        h = tl.exp(size[None, :] * rate) * h + added
        at = next_at


def first_states(
    x: Tensor,
    dt: Tensor,
    b: Tensor,
    rates: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    rows: int,
    pdl: bool,
) -> Tensor:
    """The states before each segment, float32 [places, cells, states, 16]."""
    n, width = x.shape
    cells, states = state.shape[1:3]
    count = places(sequences, n, rows)
    ends = torch.empty((count, cells, states, CELL), dtype=torch.float32, device=x.device)
    sizes = torch.empty((count, cells, CELL), dtype=torch.float32, device=x.device)
    x, dt, b = map(by_row, (x, dt, b))
    padded = power_of_two(states)
    how = {
        "STATES": states, "CELLS": cells, "SP": padded, "CELL": CELL,
        "num_warps": 1 if padded <= 32 else 4, **dependent(pdl),
    }  # fmt: skip
    number = triton.cdiv(sequences.longest, rows)
    _ends[(sequences.number, cells, number)](
        x, dt, b, rates, sequences.starts, ends, sizes, rows, width, x.stride(0),
        dt.stride(0), b.stride(0), **how,
    )  # fmt: skip
    _firsts[(sequences.number, cells)](
        ends, sizes, rates, state, sequences.slots, sequences.starts, rows, **how
    )
    return ends


@triton.jit
def _carried(
    ends, decays, state, slots, starts, rows, width, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`_firsts` of a state of one number a column; decays: of whole segments."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    seq = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = cols < width
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    at = (start // rows + seq) * width + cols
    number = tl.cdiv(end - start, rows)
    h = tl.load(state + tl.load(slots + seq) * width + cols, mask=ok, other=0.0)
    next_end = tl.load(ends + at, mask=ok & (number > 1), other=0.0)
    next_decay = tl.load(decays + at, mask=ok & (number > 1), other=0.0)
    for k in range(number):
        added, decay = next_end, next_decay
        there = ok & (k + 2 < number)
        next_end = tl.load(ends + at + width, mask=there, other=0.0)
        next_decay = tl.load(decays + at + width, mask=there, other=0.0)
        tl.store(ends + at, h, mask=ok)
        h = decay * h + added
        at += width


class Segments:
    """Launches of a kernel of one number a column, over segments. columns: of a program."""

    def __init__(self, state: Tensor, sequences: Sequences, count: int, *, columns: int) -> None:
        """state: float32 [slots, width]; count: rows of the step."""
        self.width, self.columns = state.shape[1], columns
        self.state, self.sequences = state, sequences
        self.rows = segment_rows(sequences, count, triton.cdiv(self.width, columns))
        if self.rows:
            shape = 2, places(sequences, count, self.rows), self.width
            made = torch.empty(shape, dtype=torch.float32, device=state.device)
            self.ends, self.decays = made[0], made[1]

    @property
    def grid(self) -> tuple[int, ...]:
        """Programs of the kernel."""
        number = triton.cdiv(self.sequences.longest, self.rows) if self.rows else 1
        return self.sequences.number, triton.cdiv(self.width, self.columns), number

    def carry(self, *, pdl: bool) -> None:
        """Replace `ends` with the states before each segment."""
        _carried[self.grid[:2]](
            self.ends, self.decays, self.state, self.sequences.slots, self.sequences.starts,
            self.rows, self.width, BLOCK=self.columns, num_warps=1, **dependent(pdl),
        )  # fmt: skip
