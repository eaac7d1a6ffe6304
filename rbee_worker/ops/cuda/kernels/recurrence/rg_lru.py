"""Griffin's recurrence, one of its own for each column: `RgLru.rg_lru`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row

_COLUMNS = 64


@triton.jit
def _lost(y):
    """1 - e^y for y up to 0, also where y is small."""
    near = y * (1 + y / 2 * (1 + y / 3 * (1 + y / 4 * (1 + y / 5 * (1 + y / 6)))))
    return tl.where(y > -0.25, -near, 1.0 - tl.exp(y))


@triton.jit
def _lru(
    x, into, passing, into_bias, passing_bias, rates, state, slots, starts, positions, out, width,
    x_stride, into_stride, passing_stride, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
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
        tl.store(out + t * width + cols, h.to(out.dtype.element_ty), mask=ok)
    tl.store(kept, h, mask=ok)


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
    pdl: bool = False,
) -> Tensor:
    """See `RgLru.rg_lru`; state: float32 [slots, width]; positions: int64 [N]."""
    n, width = x.shape
    out = torch.empty((n, width), dtype=x.dtype, device=x.device)
    x, into, passing = map(by_row, (x, into, passing))
    _lru[(sequences.number, triton.cdiv(width, _COLUMNS))](
        x, into, passing, into_bias, passing_bias, rates, state, sequences.slots, sequences.starts,
        positions, out, width, x.stride(0), into.stride(0), passing.stride(0), BLOCK=_COLUMNS,
        num_warps=1, enable_fp_fusion=False, **dependent(pdl),
    )  # fmt: skip
    return out
