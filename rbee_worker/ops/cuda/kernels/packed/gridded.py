"""The value at one place of a block, for the IQ formats on grids (arguments as in `blocks.py`).

`table` is the format's grid, int8 [points * width]. A block is a float16 d, scales s that mean
2s + 1, and points of the grid with signs, or in IQ1 with 1/8 added or subtracted.
`checkpoint/decoding/gridded.py` says the same for the CPU. No product here is rounded.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rbee_worker.ops.cuda.kernels.packed.blocks import byte, half, word


@triton.jit
def _scaled(value, d, scale, factor: tl.constexpr):
    """value * d * (2 * scale + 1) * factor."""
    return value.to(tl.float32) * (d * (2 * scale + 1).to(tl.float32) * factor)


@triton.jit
def _signed(value, signs, e):
    """value, negative where bit e % 8 of `signs` is one."""
    return tl.where(((signs >> (e % 8)) & 1) == 1, -value, value)


@triton.jit
def _even(signs):
    """Seven sign bits -> eight: the last one makes the number of ones even."""
    odd = signs ^ (signs >> 4)
    odd = odd ^ (odd >> 2)
    return signs | (((odd ^ (odd >> 1)) & 1) << 7)


@triton.jit
def _point(table, index, e, width: tl.constexpr):
    """Value e of a point of the grid."""
    return tl.load(table + index * width + e % width).to(tl.int32)


@triton.jit
def _nibble(p, at, index):
    """Half byte number `index`, the low half of a byte first."""
    return (byte(p, at + index // 2) >> (index % 2 * 4)) & 15


@triton.jit
def iq2_xxs(p, e, table):
    """Per 32 values: four indices; 32 bits with four times 7 signs, and a scale."""
    at = 2 + e // 32 * 8
    index = byte(p, at + e % 32 // 8)
    number = word(p, at + 4) | (word(p, at + 6) << 16)
    signs = _even((number >> (e % 32 // 8 * 7)) & 127)
    value = _signed(_point(table, index, e, 8), signs, e)
    return _scaled(value, half(p, 0), (number >> 28) & 15, 0.125)


@triton.jit
def iq2_xs(p, e, table):
    """Per 8 values: 9 index bits, 7 signs; per 16, a scale."""
    q = word(p, 2 + e // 8 * 2)
    value = _signed(_point(table, q & 511, e, 8), _even(q >> 9), e)
    return _scaled(value, half(p, 0), _nibble(p, 66, e // 16), 0.125)


@triton.jit
def iq2_s(p, e, table):
    """Per 8 values: an index byte, a sign byte, two high index bits; per 16, a scale."""
    k = e // 8
    index = byte(p, 2 + k) | (((byte(p, 66 + k // 4) >> (k % 4 * 2)) & 3) << 8)
    value = _signed(_point(table, index, e, 8), byte(p, 34 + k), e)
    return _scaled(value, half(p, 0), _nibble(p, 74, e // 16), 0.125)


@triton.jit
def iq3_xxs(p, e, table):
    """Per 4 values: an index; per 32, 32 bits with four times 7 signs, and a scale."""
    at = 66 + e // 32 * 4
    number = word(p, at) | (word(p, at + 2) << 16)
    signs = _even((number >> (e % 32 // 8 * 7)) & 127)
    value = _signed(_point(table, byte(p, 2 + e // 4), e, 4), signs, e)
    return _scaled(value, half(p, 0), (number >> 28) & 15, 0.25)


@triton.jit
def iq3_s(p, e, table):
    """Per 4 values: an index byte and a ninth bit; per 8, a sign byte; per 32, a scale."""
    k = e // 4
    index = byte(p, 2 + k) | (((byte(p, 66 + k // 8) >> (k % 8)) & 1) << 8)
    value = _signed(_point(table, index, e, 4), byte(p, 74 + e // 8), e)
    return _scaled(value, half(p, 0), _nibble(p, 106, e // 32), 1.0)


@triton.jit
def _nudged(table, index, e, down):
    """8 times (point of IQ1's grid + 1/8, or - 1/8 where `down` is 1)."""
    return _point(table, index, e, 8) * 8 + (1 - 2 * down)


@triton.jit
def iq1_s(p, e, table):
    """Per 8 values: an index byte; per 32, four times 3 high index bits, a 3-bit scale, a sign of
    the 1/8."""
    k = e // 8
    high = word(p, 34 + e // 32 * 2)
    index = byte(p, 2 + k) | (((high >> (k % 4 * 3)) & 7) << 8)
    value = _nudged(table, index, e, high >> 15)
    return _scaled(value, half(p, 0), (high >> 12) & 7, 0.125)


@triton.jit
def iq1_m(p, e, table):
    """Per 8 values: an index byte, 3 high index bits, a sign of the 1/8; per 16, a 3-bit scale.
    Four scales take 16 bits, whose highest four are a part of d."""
    k = e // 8
    high = _nibble(p, 32, k)
    value = _nudged(table, byte(p, k) | ((high & 7) << 8), e, high >> 3)
    bits = (word(p, 48) >> 12) | ((word(p, 50) >> 12) << 4)
    bits = bits | ((word(p, 52) >> 12) << 8) | ((word(p, 54) >> 12) << 12)
    d = bits.to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)
    scale = (word(p, 48 + e // 64 * 2) >> (e % 64 // 16 * 3)) & 7
    return _scaled(value, d, scale, 0.125)
