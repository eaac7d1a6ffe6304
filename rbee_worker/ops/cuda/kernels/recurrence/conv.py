"""A short convolution over the rows of each sequence: `Recurrences.causal_conv`, and products
before and after it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops import Activation
from rbee_worker.ops.cuda.kernels.activations import activate
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row

_ROWS = 32  # most rows of one program
_COLUMNS = 128


@triton.jit
def _row(
    x, before, kept, start, t, cols, mask, width, stride, before_stride, K: tl.constexpr,
    BEFORE: tl.constexpr,
):  # fmt: skip
    """Rows t of a sequence, float32, BEFORE: times others; those before its first one are in its
    state."""
    old = tl.load(
        kept + (t + K - 1)[:, None] * width + cols[None, :],
        mask=mask & (t < 0)[:, None], other=0.0,
    )  # fmt: skip
    new = tl.load(
        x + (start + t)[:, None] * stride + cols[None, :], mask=mask & (t >= 0)[:, None], other=0.0
    )
    new = new.to(tl.float32)
    if BEFORE:
        at = (start + t)[:, None] * before_stride + cols[None, :]
        new *= tl.load(before + at, mask=mask & (t >= 0)[:, None], other=0.0).to(tl.float32)
    return tl.where((t < 0)[:, None], old, new)


@triton.jit
def _keep(
    x, before, kept, start, count, cols, width, stride, before_stride, K: tl.constexpr,
    KP: tl.constexpr, BEFORE: tl.constexpr,
):  # fmt: skip
    """Replace a state with the last K - 1 rows."""
    i = tl.arange(0, KP)
    mask = (i < K - 1)[:, None] & (cols < width)[None, :]
    t = count - K + 1 + i
    last = _row(x, before, kept, start, t, cols, mask, width, stride, before_stride, K, BEFORE)
    tl.debug_barrier()  # all of it is read before any of it is written
    tl.store(kept + i[:, None] * width + cols[None, :], last, mask=mask)


@triton.jit
def _conv(
    x, before, after, taps, bias, state, slots, starts, out, width, stride, before_stride,
    after_stride, K: tl.constexpr, KP: tl.constexpr, KIND: tl.constexpr, BIAS: tl.constexpr,
    BEFORE: tl.constexpr, AFTER: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    LAST: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """LAST: a program has all rows of its sequence, so it also replaces the state."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    b = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(starts + b)
    count = tl.load(starts + b + 1) - start
    kept = state + tl.load(slots + b) * (K - 1) * width
    t = (tl.program_id(2) * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    mask = (t < count)[:, None] & (cols < width)[None, :]
    y = tl.zeros([ROWS, BLOCK], tl.float32)
    for k in tl.static_range(K):
        tap = tl.load(taps + k * width + cols, mask=cols < width, other=0.0)
        line = _row(
            x, before, kept, start, t - K + 1 + k, cols, mask, width, stride, before_stride, K,
            BEFORE,
        )  # fmt: skip
        if k == 0:
            y = tap[None, :] * line
        else:
            y += tap[None, :] * line
    if BIAS:
        y += tl.load(bias + cols, mask=cols < width, other=0.0)[None, :]
    y = activate(y, KIND)
    if AFTER:
        other = after + (start + t)[:, None] * after_stride + cols[None, :]
        y *= tl.load(other, mask=mask, other=0.0).to(tl.float32)
    at = (start + t)[:, None] * width + cols[None, :]
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)
    if LAST:
        tl.debug_barrier()
        _keep(x, before, kept, start, count, cols, width, stride, before_stride, K, KP, BEFORE)


@triton.jit
def _keep_last(
    x, before, state, slots, starts, width, stride, before_stride, K: tl.constexpr,
    KP: tl.constexpr, BEFORE: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    b = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    start = tl.load(starts + b)
    count = tl.load(starts + b + 1) - start
    kept = state + tl.load(slots + b) * (K - 1) * width
    _keep(x, before, kept, start, count, cols, width, stride, before_stride, K, KP, BEFORE)


def causal_conv(
    x: Tensor,
    taps: Tensor,
    bias: Tensor | None,
    state: Tensor,
    sequences: Sequences,
    *,
    kind: Activation | None,
    before: Tensor | None = None,
    after: Tensor | None = None,
    pdl: bool = False,
) -> Tensor:
    """x [N, width] -> the same shape. before, after: of this shape too, factors on x, and on the
    result. taps: float32 [K * width], K at least 2; bias: float32
    [width]; state: float32 [slots, K - 1, width], the rows before each sequence's first, replaced
    with its last."""
    n, width = x.shape
    out = torch.empty((n, width), dtype=x.dtype, device=x.device)
    count = taps.numel() // width
    assert state.shape[1] == count - 1 > 0
    x = by_row(x)
    before, after = (None if one is None else by_row(one) for one in (before, after))
    strides = [0 if one is None else one.stride(0) for one in (before, after)]
    rows = min(_ROWS, power_of_two(max(sequences.longest, 1)))
    parts = triton.cdiv(max(sequences.longest, 1), rows)
    grid = sequences.number, triton.cdiv(width, _COLUMNS)
    how = {
        "K": count, "KP": power_of_two(count - 1), "BLOCK": _COLUMNS, "num_warps": 4,
        "BEFORE": before is not None, "enable_fp_fusion": False, **dependent(pdl),
    }  # fmt: skip
    _conv[(*grid, parts)](
        x, before, after, taps, bias, state, sequences.slots, sequences.starts, out, width,
        x.stride(0), *strides, AFTER=after is not None, KIND=kind or "none", BIAS=bias is not None,
        ROWS=rows, LAST=parts == 1, **how,
    )  # fmt: skip
    if parts > 1:
        _keep_last[grid](
            x, before, state, sequences.slots, sequences.starts, width, x.stride(0), strides[0],
            **how,
        )  # fmt: skip
    return out
