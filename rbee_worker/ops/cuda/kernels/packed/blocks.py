"""The value at one place of a block, for every ggml block format that is on no grid.

Each function takes `p`, pointers to blocks (uint8, [blocks, 1]), `e`, places in a block (int32,
[1, places]), and `table`, the format's table of int8 numbers (`tables.py`; unread by most), and
gives float32 [blocks, places]. `checkpoint/decoding/blocks.py` says the same for the CPU. No
product but the last one of a format is rounded, so fused multiply-adds change nothing.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def byte(p, at):
    """The byte at `at`: int32."""
    return tl.load(p + at).to(tl.int32)


@triton.jit
def signed(p, at):
    """The byte at `at`, as a number from -128 to 127: int32."""
    return ((tl.load(p + at).to(tl.int32)) << 24) >> 24


@triton.jit
def half(p, at):
    """The float16 at byte `at`, which is even: float32."""
    return tl.load((p + at).to(tl.pointer_type(tl.float16), bitcast=True)).to(tl.float32)


@triton.jit
def word(p, at):
    """The 16-bit number at byte `at`, which is even: int32, 0 to 65535."""
    return tl.load((p + at).to(tl.pointer_type(tl.uint16), bitcast=True)).to(tl.int32)


@triton.jit
def _nibble32(p, at, e):
    """Value e of 32: the low halves of 16 bytes, then their high halves."""
    return (byte(p, at + e % 16) >> (e // 16 * 4)) & 15


@triton.jit
def q4_0(p, e, table):
    return half(p, 0) * (_nibble32(p, 2, e) - 8).to(tl.float32)


@triton.jit
def q4_1(p, e, table):
    return half(p, 0) * _nibble32(p, 4, e).to(tl.float32) + half(p, 2)


@triton.jit
def q5_0(p, e, table):
    fifth = (byte(p, 2 + e // 8) >> (e % 8)) & 1
    return half(p, 0) * ((_nibble32(p, 6, e) | (fifth << 4)) - 16).to(tl.float32)


@triton.jit
def q5_1(p, e, table):
    fifth = (byte(p, 4 + e // 8) >> (e % 8)) & 1
    return half(p, 0) * (_nibble32(p, 8, e) | (fifth << 4)).to(tl.float32) + half(p, 2)


@triton.jit
def q8_0(p, e, table):
    return half(p, 0) * signed(p, 2 + e).to(tl.float32)


@triton.jit
def _pair128(p, at, e):
    """Value e of 256 in two halves of 128: a pair of bits of 32 bytes, four times."""
    return (byte(p, at + e // 128 * 32 + e % 32) >> (e % 128 // 32 * 2)) & 3


@triton.jit
def q2_k(p, e, table):
    scales = byte(p, e // 16)
    step = half(p, 80) * (scales & 15).to(tl.float32)
    low = half(p, 82) * (scales >> 4).to(tl.float32)
    return step * _pair128(p, 16, e).to(tl.float32) - low


@triton.jit
def q3_k(p, e, table):
    group = e // 16
    low = (byte(p, 96 + group % 8) >> (group // 8 * 4)) & 15
    high = (byte(p, 104 + group % 4) >> (group // 4 * 2)) & 3
    scale = (low | (high << 4)) - 32
    missing = ((byte(p, e % 32) >> (e // 32)) & 1) ^ 1
    q = _pair128(p, 32, e) - (missing << 2)
    return half(p, 108) * scale.to(tl.float32) * q.to(tl.float32)


@triton.jit
def _k4(p, e, q):
    """Values q of Q4_K and Q5_K with their 6-bit scales and minimums, eight of each in 12 bytes."""
    group = e // 32
    k = group % 4
    a, m, x = byte(p, 4 + k), byte(p, 8 + k), byte(p, 12 + k)
    scale = tl.where(group < 4, a & 63, (x & 15) | ((a >> 2) & 0x30))
    low = tl.where(group < 4, m & 63, (x >> 4) | ((m >> 2) & 0x30))
    step = half(p, 0) * scale.to(tl.float32)
    return step * q.to(tl.float32) - half(p, 2) * low.to(tl.float32)


@triton.jit
def _nibble64(p, at, e):
    """Value e of 256: for each 64 values, the low halves of 32 bytes, then their high halves."""
    return (byte(p, at + e // 64 * 32 + e % 32) >> (e % 64 // 32 * 4)) & 15


@triton.jit
def q4_k(p, e, table):
    return _k4(p, e, _nibble64(p, 16, e))


@triton.jit
def q5_k(p, e, table):
    fifth = (byte(p, 16 + e % 32) >> (e // 32)) & 1
    return _k4(p, e, _nibble64(p, 48, e) | (fifth << 4))


@triton.jit
def q6_k(p, e, table):
    low = (byte(p, e // 128 * 64 + e % 64) >> (e % 128 // 64 * 4)) & 15
    q = (low | (_pair128(p, 128, e) << 4)) - 32
    return half(p, 208) * signed(p, 192 + e // 16).to(tl.float32) * q.to(tl.float32)


@triton.jit
def iq4_nl(p, e, table):
    return half(p, 0) * tl.load(table + _nibble32(p, 2, e)).to(tl.float32)


@triton.jit
def iq4_xs(p, e, table):
    group = e // 32
    low = (byte(p, 4 + group // 2) >> (group % 2 * 4)) & 15
    high = (byte(p, 2 + group // 4) >> (group % 4 * 2)) & 3
    scale = (low | (high << 4)) - 32
    value = tl.load(table + _nibble32(p, 8 + group * 16, e % 32)).to(tl.float32)
    return half(p, 0) * scale.to(tl.float32) * value


@triton.jit
def mxfp4(p, e, table):
    """The table holds doubled values, so the scale is 2^(exponent - 128); below 2: subnormal."""
    x = byte(p, 0)
    bits = tl.where(x < 2, (x + 1) << 21, (x - 1) << 23)
    value = tl.load(table + _nibble32(p, 1, e)).to(tl.float32)
    return bits.to(tl.float32, bitcast=True) * value


@triton.jit
def f8_b128(p, e, table):
    """8-bit floats of 4 exponent and 3 fraction bits after their float32 scale."""
    code = byte(p, 4 + e)
    x = code & 127
    normal = ((x << 20) + (120 << 23)).to(tl.float32, bitcast=True)
    size = tl.where(x < 8, x.to(tl.float32) * 0.001953125, normal)
    value = tl.where(x == 127, float("nan"), tl.where(code > 127, -size, size))
    scale = tl.load(p.to(tl.pointer_type(tl.float32), bitcast=True))
    return value * scale


@triton.jit
def tq1_0(p, e, table):
    """Base-3 digits: five in each of 32 and then 16 bytes, four in each of the last 4. A byte is a
    fraction, so multiplying by 3 moves its next digit before the point."""
    last = tl.where(e < 240, 0, 48 + e % 4)
    at = tl.where(e < 160, e % 32, tl.where(e < 240, 32 + e % 16, last))
    digit = tl.where(e < 160, e // 32, tl.where(e < 240, (e - 160) // 16, (e - 240) // 4))
    power = tl.where(digit < 2, 1 + 2 * digit, 9)
    power = tl.where(digit == 3, 27, tl.where(digit == 4, 81, power))
    value = ((((byte(p, at) * power) & 255) * 3) >> 8) - 1
    return half(p, 52) * value.to(tl.float32)


@triton.jit
def tq2_0(p, e, table):
    return half(p, 64) * (_pair128(p, 0, e) - 1).to(tl.float32)
