"""float32 numbers as integers in the same order, inside kernels."""

from __future__ import annotations

import triton
import triton.language as tl

LOWEST = tl.constexpr(-0x7F800001)  # -inf
NOTHING = tl.constexpr(-0x7FFFFFFFFFFFFFFF)  # below every key of `ranked`


@triton.jit
def ordered(x):
    """float32 as int32: -inf is LOWEST, inf the largest, -0.0 equals 0.0. nan is anything."""
    x = tl.where(x == 0, 0.0, x)
    bits = x.to(tl.int32, bitcast=True)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits)


@triton.jit
def value_of(order):
    """The float32 number of an integer of `ordered`."""
    bits = order.to(tl.int32)
    return tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits).to(tl.float32, bitcast=True)


@triton.jit
def ranked(x, place, open_):
    """float32 as int64, distinct: of equal numbers the first is the largest. nan is below -inf, and
    what is not open is NOTHING. place: the number's index, below 2**31."""
    order = tl.where(x == x, ordered(x), LOWEST - 1)
    key = order.to(tl.int64) * 4294967296 + (0x7FFFFFFF - place)
    return tl.where(open_, key, NOTHING)


@triton.jit
def placed(key):
    """The index in a key of `ranked`."""
    return (0x7FFFFFFF - (key & 0x7FFFFFFF)).to(tl.int32)
