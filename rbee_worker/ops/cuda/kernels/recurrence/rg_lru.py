"""Griffin's recurrence, one of its own for each column: `RgLru.rg_lru`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row
from rbee_worker.ops.cuda.kernels.recurrence.segments import Segments

_COLUMNS = 64


@triton.jit
def _lost(y):
    """1 - e^y for y up to 0, also where y is small."""
    near = y * (1 + y / 2 * (1 + y / 3 * (1 + y / 4 * (1 + y / 5 * (1 + y / 6)))))
    return tl.where(y > -0.25, -near, 1.0 - tl.exp(y))


@triton.jit
def _lru(
    x, into, passing, into_bias, passing_bias, rates, state, ends, decays, slots, starts, positions,
    out, rows, width, x_stride, into_stride, passing_stride, SEGMENTS: tl.constexpr,
    ADDS: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """SEGMENTS: only a segment of `rows` rows (`segments.py`), before which the states are in
    `ends`. ADDS: only what it adds to the states, and how much they decay, for `ends` and
    `decays`."""
    if PDL:
        gdc_launch_dependents()
    seq = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = cols < width
    more_into = tl.load(into_bias + cols, mask=ok, other=0.0)
    more_passing = tl.load(passing_bias + cols, mask=ok, other=0.0)
    rate = tl.load(rates + cols, mask=ok, other=0.0)
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    kept = state + tl.load(slots + seq) * width + cols
    last = True
    if SEGMENTS:
        at = (start // rows + seq + tl.program_id(2)) * width + cols
        start += tl.program_id(2) * rows
        last = start + rows >= end
        if (start >= end) | (ADDS & last):
            return
        end = tl.minimum(start + rows, end)
        if ADDS:
            h, whole = tl.zeros([BLOCK], tl.float32), tl.full([BLOCK], 1.0, tl.float32)
        else:
            h = tl.load(ends + at, mask=ok, other=0.0)
    else:
        h = tl.load(kept, mask=ok, other=0.0)
    # The next row is read before this one is used.
    there = ok & (start < end)
    next_x = tl.load(x + start * x_stride + cols, mask=there, other=0.0)
    next_into = tl.load(into + start * into_stride + cols, mask=there, other=0.0)
    next_passing = tl.load(passing + start * passing_stride + cols, mask=there, other=0.0)
    next_position = tl.load(positions + start, mask=start < end, other=0)
    for t in range(start, end):
        gate = tl.sigmoid(next_into.to(tl.float32) + more_into)
        given = gate * next_x.to(tl.float32)
        power = rate * tl.sigmoid(next_passing.to(tl.float32) + more_passing)
        first = next_position == 0
        there = ok & (t + 1 < end)
        next_x = tl.load(x + (t + 1) * x_stride + cols, mask=there, other=0.0)
        next_into = tl.load(into + (t + 1) * into_stride + cols, mask=there, other=0.0)
        next_passing = tl.load(passing + (t + 1) * passing_stride + cols, mask=there, other=0.0)
        next_position = tl.load(positions + t + 1, mask=t + 1 < end, other=0)
        decay = tl.where(first, 0.0, tl.exp(power))
        h = decay * h + tl.where(first, given, tl.sqrt(_lost(2 * power)) * given)
        if ADDS:
            whole *= decay
        else:
            tl.store(out + t * width + cols, h.to(out.dtype.element_ty), mask=ok)
    if ADDS:
        tl.store(ends + at, h, mask=ok)
        tl.store(decays + at, whole, mask=ok)
    else:
        tl.store(kept, h, mask=ok & last)


def rg_lru(
    x: Tensor,
    into: Tensor,
    passing: Tensor,
    into_bias: Tensor,
    passing_bias: Tensor,
    rates: Tensor,
    positions: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    segments: bool = False,
    pdl: bool = False,
) -> Tensor:
    """See `RgLru.rg_lru`; state: float32 [slots, width]; positions: int64 [N]. segments: results
    may depend on where a step ends, in their last bits."""
    n, width = x.shape
    out = torch.empty((n, width), dtype=x.dtype, device=x.device)
    x, into, passing = map(by_row, (x, into, passing))
    some = Segments(state, sequences, n, columns=_COLUMNS) if segments else None
    rows = 0 if some is None else some.rows

    def run(ends: Tensor | None, decays: Tensor | None, *, adds: bool) -> None:
        grid = (sequences.number, triton.cdiv(width, _COLUMNS)) if some is None else some.grid
        _lru[grid](
            x, into, passing, into_bias, passing_bias, rates, state, ends, decays, sequences.slots,
            sequences.starts, positions, out, rows, width, x.stride(0), into.stride(0),
            passing.stride(0), SEGMENTS=rows > 0, ADDS=adds, BLOCK=_COLUMNS, num_warps=1,
            enable_fp_fusion=False, **dependent(pdl),
        )  # fmt: skip

    if some is None or not rows:
        run(None, None, adds=False)
    else:
        run(some.ends, some.decays, adds=True)
        some.carry(pdl=pdl)
        run(some.ends, some.decays, adds=False)
    return out
