"""Operations on rows: gated activations, rotary positions, joining, factors by position."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.activations import activate
from rbee_worker.ops.cuda.kernels.each import by_columns
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two

_BLOCK = 1024


@triton.jit
def _gated(x, out, width, BLOCK: tl.constexpr, KIND: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = cols < width
    gate = tl.load(x + row * 2 * width + cols, mask=ok, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * width + width + cols, mask=ok, other=0.0).to(tl.float32)
    y = activate(gate, KIND) * up
    tl.store(out + row * width + cols, y.to(out.dtype.element_ty), mask=ok)


def gated(gate_up: Tensor, kind: str, *, pdl: bool = False) -> Tensor:
    """act(gate) * up: [N, 2 * width] -> [N, width]"""
    n, double = gate_up.shape
    width = double // 2
    out = torch.empty((n, width), dtype=gate_up.dtype, device=gate_up.device)
    if n:
        _gated[(n, triton.cdiv(width, _BLOCK))](
            gate_up.contiguous(), out, width, BLOCK=_BLOCK, KIND=kind, num_warps=4, **dependent(pdl)
        )
    return out


@triton.jit
def _rope(
    x, angles, out, width, stride,
    HEAD: tl.constexpr, HALF: tl.constexpr, PAIRS: tl.constexpr, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """One program a row and head; columns beyond 2 * HALF are copied."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.arange(0, BLOCK)
    ok = c < HEAD
    turns = c < 2 * HALF
    if PAIRS:
        angle, other, first = c // 2, c ^ 1, c % 2 == 0
    else:
        angle, first = c % HALF, c < HALF
        other = tl.where(first, c + HALF, c - HALF)
    base = x + row * stride + head * HEAD
    a = tl.load(base + c, mask=ok, other=0.0).to(tl.float32)
    b = tl.load(base + other, mask=ok & turns, other=0.0).to(tl.float32)
    cos = tl.load(angles + row * 2 * HALF + angle, mask=ok & turns, other=1.0)
    sin = tl.load(angles + row * 2 * HALF + HALF + angle, mask=ok & turns, other=0.0)
    y = a * cos + tl.where(first, -b, b) * sin
    tl.store(out + row * width + head * HEAD + c, y.to(out.dtype.element_ty), mask=ok)


def rope(x: Tensor, angles: Tensor, *, heads: int, interleaved: bool, pdl: bool = False) -> Tensor:
    """Rotate the first columns of each head of x [N, heads * width].

    angles: float32 [N, dim], the cosines of dim / 2 angles, then their sines.
    """
    n, width = x.shape
    out = torch.empty((n, width), dtype=x.dtype, device=x.device)
    head, half = width // heads, angles.shape[1] // 2
    if x.stride(1) != 1:
        x = x.contiguous()
    if n:
        _rope[(n, heads)](
            x, angles, out, width, x.stride(0), HEAD=head, HALF=half, PAIRS=interleaved,
            BLOCK=triton.next_power_of_2(head), num_warps=1, **dependent(pdl),
        )  # fmt: skip
    return out


@triton.jit
def _part(x, x_row, to, row, head, c, WIDTH: tl.constexpr):
    """Copy the columns of one head of a part, if it has any."""
    if WIDTH > 0:
        y = tl.load(x + row * x_row + head * WIDTH + c, mask=c < WIDTH, other=0.0)
        tl.store(to + c, y.to(to.dtype.element_ty), mask=c < WIDTH)


@triton.jit
def _joined(
    a, a_row, b, b_row, d, d_row, out, A: tl.constexpr, B: tl.constexpr, D: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program a row and head: its columns of each part, one part after another."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.arange(0, BLOCK)
    to = out + (row * tl.num_programs(1) + head) * (A + B + D)
    _part(a, a_row, to, row, head, c, A)
    _part(b, b_row, to + A, row, head, c, B)
    _part(d, d_row, to + A + B, row, head, c, D)


MOST_PARTS = 3


def joined(parts: Sequence[Tensor], *, heads: int, pdl: bool = False) -> Tensor:
    """See `Ops.concat`, of at most `MOST_PARTS` parts."""
    assert len(parts) <= MOST_PARTS
    n = parts[0].shape[0]
    widths = [part.shape[1] // heads for part in parts]
    out = torch.empty((n, heads * sum(widths)), dtype=parts[0].dtype, device=parts[0].device)
    given: list[Any] = []
    for part in map(by_columns, parts):
        given += [part, part.stride(0)]
    given += [None, 0] * (MOST_PARTS - len(parts))
    sizes = [*widths, 0, 0]
    if n:
        block = power_of_two(max(widths))
        _joined[(n, heads)](
            *given, out, A=sizes[0], B=sizes[1], D=sizes[2], BLOCK=block,
            num_warps=max(1, min(8, block // 256)), **dependent(pdl),
        )  # fmt: skip
    return out


@triton.jit
def _by_position(
    x, x_row, positions, factors, out, width, count, every, offset, BLOCK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    at = tl.minimum((tl.load(positions + row) + offset) // every, count - 1)
    y = tl.load(x + row * x_row + c, mask=c < width, other=0.0).to(tl.float32)
    y = y * tl.load(factors + at)
    tl.store(out + row * width + c, y.to(out.dtype.element_ty), mask=c < width)


def by_position(
    x: Tensor,
    positions: Tensor,
    factors: Tensor,
    *,
    every: int,
    offset: int,
    pdl: bool = False,
) -> Tensor:
    """See `Ops.scale_by_position`; positions: int64 [N], factors: float32."""
    n, width = x.shape
    out = torch.empty((n, width), dtype=x.dtype, device=x.device)
    x = by_columns(x)
    if n:
        _by_position[(n, triton.cdiv(width, _BLOCK))](
            x, x.stride(0), positions, factors, out, width, len(factors), every, offset,
            BLOCK=_BLOCK, num_warps=4, **dependent(pdl),
        )  # fmt: skip
    return out
