"""Elementwise operations on rows: gated activations, activations, sums, rotary positions."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.activations import activate
from rbee_worker.ops.cuda.kernels.launch import dependent

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
