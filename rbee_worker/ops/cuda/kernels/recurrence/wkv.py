"""RWKV's operations: `Wkv.previous`, `lerp`, `wkv` and `wkv_delta`.

A program of a recurrence has the states of one cell (`ops/cells.py`): 16 value columns of one head.
Rows are computed in order, so a row's bits do not depend on how its sequence is split into steps.
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

_BLOCK = 256  # columns of a program of the elementwise kernels
_ROWS = 8
_FASTEST = tl.constexpr(-0.6065306597126334)  # -e^-0.5, the logarithm of the least weight
_LEAST = tl.constexpr(1e-12)  # length of a direction before it is one


@triton.jit
def _previous(
    x, state, slots, starts, out, width, stride, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    b = tl.program_id(0)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = cols < width
    start, end = tl.load(starts + b), tl.load(starts + b + 1)
    kept = state + tl.load(slots + b) * width + cols
    last = tl.load(kept, mask=ok, other=0.0)
    for first in range(start, end, ROWS):
        t = (first + tl.arange(0, ROWS))[:, None]
        inside = (t < end) & ok[None, :]
        before = tl.load(x + (t - 1) * stride + cols[None, :], mask=inside & (t > start), other=0.0)
        before = tl.where(t == start, last[None, :], before.to(tl.float32))
        to = out + t * width + cols[None, :]
        tl.store(to, before.to(out.dtype.element_ty), mask=inside)
    some = ok & (start < end)
    new = tl.load(x + (end - 1) * stride + cols, mask=some, other=0.0)
    tl.store(kept, new.to(tl.float32), mask=some)


def previous(x: Tensor, state: Tensor, sequences: Sequences, *, pdl: bool = False) -> Tensor:
    """See `Wkv.previous`: x [N, width], state float32 [slots, 1, width]."""
    x = by_row(x)
    n, width = x.shape
    out = torch.empty((n, width), dtype=x.dtype, device=x.device)
    _previous[(sequences.number, triton.cdiv(width, _BLOCK))](
        x, state, sequences.slots, sequences.starts, out, width, x.stride(0), ROWS=_ROWS,
        BLOCK=_BLOCK, num_warps=4, **dependent(pdl),
    )  # fmt: skip
    return out


@triton.jit
def _lerp(
    x, y, factors, moving, out, width, whole, x_stride, y_stride, moving_stride,
    FACTORS: tl.constexpr, MOVING: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = at < whole
    a = tl.load(x + row * x_stride + at % width, mask=ok, other=0.0).to(tl.float32)
    b = tl.load(y + row * y_stride + at % width, mask=ok, other=0.0).to(tl.float32)
    share = tl.zeros([BLOCK], tl.float32)
    if FACTORS:
        share += tl.load(factors + at, mask=ok, other=0.0)
    if MOVING:
        share += tl.load(moving + row * moving_stride + at, mask=ok, other=0.0).to(tl.float32)
    z = a + (b - a) * share
    tl.store(out + row * whole + at, z.to(out.dtype.element_ty), mask=ok)


def lerp(
    x: Tensor, y: Tensor, factors: Tensor | None, moving: Tensor | None, *, pdl: bool = False
) -> Tensor:
    """See `Wkv.lerp`."""
    x, y = by_row(x), by_row(y)
    (n, width) = x.shape
    if moving is not None:
        moving = by_row(moving)
        whole = moving.shape[1]
    else:
        assert factors is not None
        whole = len(factors)
    out = torch.empty((n, whole), dtype=x.dtype, device=x.device)
    if n:
        _lerp[(n, triton.cdiv(whole, _BLOCK))](
            x, y, factors, moving, out, width, whole, x.stride(0), y.stride(0),
            0 if moving is None else moving.stride(0), FACTORS=factors is not None,
            MOVING=moving is not None, BLOCK=_BLOCK, num_warps=2, enable_fp_fusion=False,
            **dependent(pdl),
        )  # fmt: skip
    return out


@triton.jit
def _wkv(
    r, k, v, decay, base, bonus, state, slots, starts, out, width, r_stride, k_stride, v_stride,
    decay_stride, heads, SIZE: tl.constexpr, CELLS: tl.constexpr, SP: tl.constexpr,
    CELL: tl.constexpr, DECAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    seq, cell = tl.program_id(0), tl.program_id(1)
    n, i = tl.arange(0, SP), tl.arange(0, CELL)
    head = cell // CELLS
    live = n < SIZE
    key = head * SIZE + n
    inside = (cell % CELLS) * CELL + i < SIZE
    value = head * SIZE + (cell % CELLS) * CELL + i
    raw = tl.load(base + key, mask=live, other=0.0)
    extra = tl.load(bonus + key, mask=live, other=0.0)[:, None]
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    kept = state + (tl.load(slots + seq) * heads * CELLS + cell) * SIZE * CELL
    kept += n[:, None] * CELL + i[None, :]
    h = tl.load(kept, mask=live[:, None], other=0.0)
    w = tl.exp(-tl.exp(raw))
    # The next row is read before this one is used.
    r_at, k_at, v_at = r + start * r_stride + key, k + start * k_stride + key, v + start * v_stride
    d_at = decay
    if DECAY:
        d_at += start * decay_stride + key
    next_r = tl.load(r_at, mask=live & (start < end), other=0.0)
    next_k = tl.load(k_at, mask=live & (start < end), other=0.0)
    next_v = tl.load(v_at + value, mask=inside & (start < end), other=0.0)
    if DECAY:
        next_d = tl.load(d_at, mask=live & (start < end), other=0.0)
    for t in range(start, end):
        here, keys = next_r.to(tl.float32)[:, None], next_k.to(tl.float32)[:, None]
        values = next_v.to(tl.float32)[None, :]
        if DECAY:
            w = tl.exp(-tl.exp(raw + next_d.to(tl.float32)))
        more = t + 1 < end
        r_at += r_stride
        k_at += k_stride
        v_at += v_stride
        next_r = tl.load(r_at, mask=live & more, other=0.0)
        next_k = tl.load(k_at, mask=live & more, other=0.0)
        next_v = tl.load(v_at + value, mask=inside & more, other=0.0)
        if DECAY:
            d_at += decay_stride
            next_d = tl.load(d_at, mask=live & more, other=0.0)
        given = keys * values
        y = tl.sum(here * (h + extra * given), 0)
        h = w[:, None] * h + given
        tl.store(out + t * width + value, y.to(out.dtype.element_ty), mask=inside)
    h = tl.where(inside[None, :], h, 0.0)
    tl.store(kept, h, mask=live[:, None])


def wkv(
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
    """See `Wkv.wkv`; state: float32 [slots, *scan_shape(size, size, heads)]."""
    n, width = v.shape
    size = width // heads
    assert state.shape[1:] == scan_shape(size, size, heads)
    r, k, v = map(by_row, (r, k, v))
    decay = None if decay is None else by_row(decay)
    out = torch.empty((n, width), dtype=v.dtype, device=v.device)
    cells, padded = scan_shape(size, size)[0], power_of_two(size)
    _wkv[(sequences.number, heads * cells)](
        r, k, v, decay, base, bonus, state, sequences.slots, sequences.starts, out, width,
        r.stride(0), k.stride(0), v.stride(0), 0 if decay is None else decay.stride(0), heads,
        SIZE=size, CELLS=cells, SP=padded, CELL=CELL, DECAY=decay is not None,
        num_warps=1 if padded <= 32 else 2, enable_fp_fusion=False, **dependent(pdl),
    )  # fmt: skip
    return out


@triton.jit
def _wkv_delta(
    r, k, v, decay, rate, removal, renewal, bonus, state, slots, starts, out, own, width,
    r_stride, k_stride, v_stride, decay_stride, rate_stride, heads, SIZE: tl.constexpr,
    CELLS: tl.constexpr, SP: tl.constexpr, CELL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    seq, cell = tl.program_id(0), tl.program_id(1)
    n, i = tl.arange(0, SP), tl.arange(0, CELL)
    head = cell // CELLS
    live = n < SIZE
    key = head * SIZE + n
    inside = (cell % CELLS) * CELL + i < SIZE
    value = head * SIZE + (cell % CELLS) * CELL + i
    gone = tl.load(removal + key, mask=live, other=0.0)
    again = tl.load(renewal + key, mask=live, other=0.0)
    extra = tl.load(bonus + key, mask=live, other=0.0)
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    kept = state + (tl.load(slots + seq) * heads * CELLS + cell) * SIZE * CELL
    kept += n[:, None] * CELL + i[None, :]
    h = tl.load(kept, mask=live[:, None], other=0.0)
    # The next row is read before this one is used.
    r_at, k_at, v_at = r + start * r_stride + key, k + start * k_stride + key, v + start * v_stride
    d_at, a_at = decay + start * decay_stride + key, rate + start * rate_stride + key
    some = live & (start < end)
    next_r = tl.load(r_at, mask=some, other=0.0)
    next_k = tl.load(k_at, mask=some, other=0.0)
    next_d = tl.load(d_at, mask=some, other=0.0)
    next_a = tl.load(a_at, mask=some, other=0.0)
    next_v = tl.load(v_at + value, mask=inside & (start < end), other=0.0)
    for t in range(start, end):
        here, keys = next_r.to(tl.float32), next_k.to(tl.float32)
        values = next_v.to(tl.float32)
        w = tl.exp(1.0 / (1.0 + tl.exp(-next_d.to(tl.float32))) * _FASTEST)
        a = 1.0 / (1.0 + tl.exp(-next_a.to(tl.float32)))
        r_at += r_stride
        k_at += k_stride
        v_at += v_stride
        d_at += decay_stride
        a_at += rate_stride
        some = live & (t + 1 < end)
        next_r = tl.load(r_at, mask=some, other=0.0)
        next_k = tl.load(k_at, mask=some, other=0.0)
        next_d = tl.load(d_at, mask=some, other=0.0)
        next_a = tl.load(a_at, mask=some, other=0.0)
        next_v = tl.load(v_at + value, mask=inside & (t + 1 < end), other=0.0)
        along = keys * gone
        along = along / tl.maximum(tl.sqrt_rn(tl.sum(along * along, 0)), _LEAST)
        keys = keys * (1.0 + (a - 1.0) * again)
        seen = tl.sum(along[:, None] * h, 0)
        h = w[:, None] * h - (along * a)[:, None] * seen[None, :] + keys[:, None] * values[None, :]
        y = tl.sum(here[:, None] * h, 0)
        z = tl.sum(here * keys * extra, 0) * values
        to = t * width + value
        tl.store(out + to, y.to(out.dtype.element_ty), mask=inside)
        tl.store(own + to, z.to(own.dtype.element_ty), mask=inside)
    h = tl.where(inside[None, :], h, 0.0)
    tl.store(kept, h, mask=live[:, None])


def wkv_delta(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    rate: Tensor,
    removal: Tensor,
    renewal: Tensor,
    bonus: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    heads: int,
    pdl: bool = False,
) -> tuple[Tensor, Tensor]:
    """See `Wkv.wkv_delta`; state as in `wkv`."""
    n, width = v.shape
    size = width // heads
    assert state.shape[1:] == scan_shape(size, size, heads)
    rows = [by_row(x) for x in (r, k, v, decay, rate)]
    out, own = torch.empty((2, n, width), dtype=v.dtype, device=v.device)
    cells, padded = scan_shape(size, size)[0], power_of_two(size)
    _wkv_delta[(sequences.number, heads * cells)](
        *rows, removal, renewal, bonus, state, sequences.slots, sequences.starts, out, own, width,
        *(x.stride(0) for x in rows), heads, SIZE=size, CELLS=cells, SP=padded, CELL=CELL,
        num_warps=1 if padded <= 32 else 2, enable_fp_fusion=False, **dependent(pdl),
    )  # fmt: skip
    return out, own
