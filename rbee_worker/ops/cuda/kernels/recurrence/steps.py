"""How far a chunk's rows decay the states of a head: e^(the sum of rate softplus(dt + bias)), for
the recurrences of Mamba 2 and the gated delta rule by chunks."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.recurrence.chunks import ROWS, Chunks, begin
from rbee_worker.ops.cuda.kernels.recurrence.rows import softplus


@triton.jit
def _steps(
    dt, bias, rates, starts, steps, decays, dt_stride, heads, ROWS: tl.constexpr, SP: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Grid (chunks, heads, sequences); see `write_steps`."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    rate, offset = tl.load(rates + head), tl.load(bias + head)
    if PDL:
        gdc_wait()
    place, start, end = begin(starts, seq, tl.program_id(0), head, heads, ROWS)
    if start >= end:
        return
    r = tl.arange(0, ROWS)
    raw = tl.load(dt + (start + r) * dt_stride + head, mask=start + r < end, other=0.0)
    size = tl.where(start + r < end, softplus(raw.to(tl.float32) + offset), 0.0)
    passed = tl.maximum(size * rate, -1e4).to(tl.float64)  # e^-10000 is 0 as e^-inf
    upto, whole = tl.cumsum(passed, 0), tl.sum(passed, 0)
    high = upto.to(tl.float32)
    at = steps + place * 4 * ROWS + r
    tl.store(at, size)
    tl.store(at + ROWS, high)
    tl.store(at + 2 * ROWS, (upto - high.to(tl.float64)).to(tl.float32))
    tl.store(at + 3 * ROWS, tl.exp((whole - upto).to(tl.float32)))
    tl.store(decays + place, tl.exp(whole.to(tl.float32)))


def write_steps(chunks: Chunks, dt: Tensor, bias: Tensor, rates: Tensor) -> tuple[Tensor, Tensor]:
    """Of dt [N, heads]: float32 [count, 4, 64], and decays of whole chunks, float32 [count].

    The four: softplus(dt + bias), 0 beyond the end; the sum of rate times that up to each row,
    which is negative, and what float32 leaves of it, so that a difference of large sums is as
    exact as a sum of its own; e^(the sum behind the row).
    """
    steps, decays = chunks.empty(4, ROWS), chunks.empty()
    _steps[chunks.grid](
        dt, bias, rates, chunks.sequences.starts, steps, decays, dt.stride(0), chunks.heads,
        num_warps=1, **chunks.how,
    )  # fmt: skip
    return steps, decays


@triton.jit
def decay_between(steps, place, ROWS: tl.constexpr):
    """e^(the sum behind row j up to row i) as [i, j], 0 for j > i."""
    r = tl.arange(0, ROWS)
    at = steps + (place * 4 + 1) * ROWS
    high, low = tl.load(at + r)[:, None], tl.load(at + ROWS + r)[:, None]
    far = (high - tl.load(at + r[None, :])) + (low - tl.load(at + ROWS + r[None, :]))
    return tl.where(r[:, None] >= r[None, :], tl.exp(tl.minimum(far, 0.0)), 0.0)
