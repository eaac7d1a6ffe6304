"""Products of tiles of which operands are float32, for chunked recurrences.

Tensor cores multiply bfloat16 exactly and add in float32. So an operand is there a sum of bfloat16
numbers (Henry, Tang and Heinecke 2019): of one where it is a model's row in bfloat16, of two with
16 bits together where it was computed, of three with all 24 bits in models in float32.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from rbee_worker.ops.cuda.kernels.launch import INTERPRETED

HALVES = tl.constexpr("halves")


def way(dtype: torch.dtype) -> str:
    """How a model of that type multiplies: WAY of the functions below; "bf16x3" and "bf16x6" are
    Triton's names. The interpreter multiplies in float32."""
    if INTERPRETED:
        return "ieee"
    return {torch.bfloat16: "halves", torch.float16: "bf16x3"}.get(dtype, "bf16x6")


@triton.jit
def halves(x):
    """float32 as a sum of two bfloat16 numbers."""
    high = x.to(tl.bfloat16)
    return high, (x - high.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def rows_dot(a, b, WAY: tl.constexpr):
    """a b, both of the model's type."""
    if WAY == HALVES:
        return tl.dot(a, b)
    else:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=WAY)


@triton.jit
def left_dot(a, b, WAY: tl.constexpr):
    """a b, where a is float32 and b of the model's type."""
    if WAY == HALVES:
        high, low = halves(a)
        return tl.dot(high, b, tl.dot(low, b))
    else:
        return tl.dot(a, b.to(tl.float32), input_precision=WAY)


@triton.jit
def right_dot(a, b, WAY: tl.constexpr):
    """a b, where a is of the model's type and b float32."""
    if WAY == HALVES:
        high, low = halves(b)
        return tl.dot(a, high, tl.dot(a, low))
    else:
        return tl.dot(a.to(tl.float32), b, input_precision=WAY)


@triton.jit
def both_dot(a, b, WAY: tl.constexpr):
    """a b, both float32."""
    if WAY == HALVES:
        a_high, a_low = halves(a)
        b_high, b_low = halves(b)
        return tl.dot(a_high, b_high, tl.dot(a_high, b_low, tl.dot(a_low, b_high)))
    else:
        return tl.dot(a, b, input_precision=WAY)


@triton.jit
def sums_between(x, ROWS: tl.constexpr):
    """Of x float32 [ROWS]: the sums over j < k <= i as [i, j], 0 for j >= i, and those up to i.

    Sums from the first row on are made in float64 and split in two, so that a difference of large
    ones is as exact as a sum of its own.
    """
    upto = tl.cumsum(x.to(tl.float64), 0)
    high = upto.to(tl.float32)
    low = (upto - high.to(tl.float64)).to(tl.float32)
    i = tl.arange(0, ROWS)
    far = (high[:, None] - high[None, :]) + (low[:, None] - low[None, :])
    return tl.where(i[:, None] > i[None, :], far, 0.0), high
