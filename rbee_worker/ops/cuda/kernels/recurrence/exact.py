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

_HALVES = tl.constexpr("halves")


def way(dtype: torch.dtype) -> str:
    """How a model of that type multiplies: WAY of `dot`; "bf16x3" and "bf16x6" are Triton's names.
    The interpreter multiplies in float32."""
    if INTERPRETED:
        return "ieee"
    return {torch.bfloat16: "halves", torch.float16: "bf16x3"}.get(dtype, "bf16x6")


@triton.jit
def _halves(x):
    """float32 as a sum of two bfloat16 numbers."""
    high = x.to(tl.bfloat16)
    return high, (x - high.to(tl.float32)).to(tl.bfloat16)


@triton.jit
def dot(a, b, WAY: tl.constexpr):
    """a b of tiles of the model's type or float32, as float32."""
    if WAY != _HALVES:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=WAY)
    elif a.dtype == tl.float32:
        high, low = _halves(a)
        if b.dtype == tl.float32:
            b_high, b_low = _halves(b)
            return tl.dot(high, b_high, tl.dot(high, b_low, tl.dot(low, b_high)))
        else:
            return tl.dot(high, b, tl.dot(low, b))
    elif b.dtype == tl.float32:
        high, low = _halves(b)
        return tl.dot(a, high, tl.dot(a, low))
    else:
        return tl.dot(a, b)
