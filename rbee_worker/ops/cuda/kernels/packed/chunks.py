"""The words of a chunk: 64 neighbouring values of a row, as `planes.py` lays them out.

`unpack` makes 16 words of four bytes each, in the order of the values, from any format's words;
`weigh` applies the format's scales to the integer dot products.
"""

from __future__ import annotations

import triton
import triton.language as tl

from rbee_worker.ops.cuda.kernels.packed.int8 import (
    dot4,
    high_float,
    high_half,
    look_up4,
    low_float,
    low_half,
    signed_byte,
    unsigned_byte,
)


@triton.jit
def inside(c, CHUNKS: tl.constexpr, C: tl.constexpr):
    """Whether each chunk of c [C] is one of CHUNKS: no question, and no instructions, where a
    program's C chunks at a time divide them."""
    if CHUNKS % C == 0:
        return tl.full([C], True, tl.int1)
    else:
        return c < CHUNKS


@triton.jit
def load_words(p, mask, W: tl.constexpr):
    """Words 0 to W - 1 of chunks whose first words are at `p` [chunks, rows]: W tensors of that
    shape. All loads are issued together, so that many bytes are on their way."""
    words = (tl.load(p, mask=mask, other=0, eviction_policy="evict_first"),)
    for j in tl.static_range(1, W):
        words = words + (tl.load(p + 32 * j, mask=mask, other=0, eviction_policy="evict_first"),)
    return words


@triton.jit
def _nibbles(words):
    """Half bytes: the low ones of a word are its first four values."""
    out = (words[0] & 0x0F0F0F0F, (words[0] >> 4) & 0x0F0F0F0F)
    for j in tl.static_range(1, 8):
        out = out + (words[j] & 0x0F0F0F0F, (words[j] >> 4) & 0x0F0F0F0F)
    return out


@triton.jit
def _shifted(word, left: tl.constexpr):
    """word << left, or >> -left."""
    if left >= 0:
        return word << left
    return word >> -left


@triton.jit
def _fifth(words):
    """Half bytes with a fifth bit: word 8 has it for the first 32 values, word 9 for the others;
    bit f of a byte of these belongs to the f-th word of values."""
    low = _nibbles(words)
    out = (low[0] | ((words[8] << 4) & 0x10101010),)
    for v in tl.static_range(1, 16):
        out = out + (low[v] | (_shifted(words[8 + v // 8], 4 - v % 8) & 0x10101010),)
    return out


@triton.jit
def _six(words):
    """Four times signed values of six bits: half bytes, and pairs of bits in words 8 to 11; pair f
    of a byte of these belongs to the f-th of four words of values."""
    out = (((words[0] << 2) & 0x3C3C3C3C) | ((words[8] << 6) & -0x3F3F3F40),)
    for v in tl.static_range(1, 16):
        low = _shifted(words[v // 2], 2 - 4 * (v % 2)) & 0x3C3C3C3C
        out = out + (low | (_shifted(words[8 + v // 4], 6 - 2 * (v % 4)) & -0x3F3F3F40),)
    return out


@triton.jit
def _pairs(words):
    """Pairs of bits in words 0 to 3."""
    out = (words[0] & 0x03030303,)
    for v in tl.static_range(1, 16):
        out = out + ((words[v // 4] >> (2 * (v % 4))) & 0x03030303,)
    return out


@triton.jit
def _three(words):
    """32 times signed values of three bits: pairs of bits in words 0 to 3, signs in words 4, 5."""
    out = (((words[0] << 5) & 0x60606060) | ((words[4] << 7) & -0x7F7F7F80),)
    for v in tl.static_range(1, 16):
        low = _shifted(words[v // 4], 5 - 2 * (v % 4)) & 0x60606060
        out = out + (low | (_shifted(words[4 + v // 8], 7 - v % 8) & -0x7F7F7F80),)
    return out


@triton.jit
def _looked_up(words, t0: tl.constexpr, t1: tl.constexpr, t2: tl.constexpr, t3: tl.constexpr):
    """Table values of half bytes, which are here in the order of the values."""
    out = (look_up4(words[0], t0, t1, t2, t3), look_up4(words[0] >> 16, t0, t1, t2, t3))
    for j in tl.static_range(1, 8):
        first = look_up4(words[j], t0, t1, t2, t3)
        out = out + (first, look_up4(words[j] >> 16, t0, t1, t2, t3))
    return out


@triton.jit
def unpack(words, FORMAT: tl.constexpr):
    """The values of a chunk, times a power of two that `weigh` takes out: 16 words of bytes."""
    if FORMAT == "Q8_0":
        return words
    elif FORMAT == "Q5_0" or FORMAT == "Q5_1" or FORMAT == "Q5_K":
        return _fifth(words)
    elif FORMAT == "Q6_K":
        return _six(words)
    elif FORMAT == "Q3_K":
        return _three(words)
    elif FORMAT == "Q2_K":
        return _pairs(words)
    elif FORMAT == "IQ4_NL" or FORMAT == "IQ4_XS":
        # -127 -104 -83 -65, -49 -35 -22 -10, 1 13 25 38, 53 69 89 113
        return _looked_up(words, -1079142271, -152379953, 639175937, 1901675829)
    elif FORMAT == "MXFP4":
        # twice 0 0.5 1 1.5, 2 3 4 6, and the same with a sign
        return _looked_up(words, 0x03020100, 0x0C080604, -33620224, -185009412)
    else:
        return _nibbles(words)


@triton.jit
def _dot(values, x8, c, ok, FIRST: tl.constexpr, LAST: tl.constexpr, SIGNED: tl.constexpr):
    """Integer dot products of words 2 * FIRST to 2 * LAST - 1 of values and int8 numbers."""
    dot = values[0] & 0
    for k in tl.static_range(FIRST, LAST):
        x = tl.load(x8 + c * 8 + k, mask=ok, other=0)
        dot = dot4(values[2 * k], x.to(tl.int32)[:, None], dot, SIGNED)
        dot = dot4(values[2 * k + 1], (x >> 32).to(tl.int32)[:, None], dot, SIGNED)
    return dot


@triton.jit
def _halves(values, x8, c, ok, SIGNED: tl.constexpr):
    """Dot products of the two halves of a chunk and of 64 int8 numbers at x8 (eight a word)."""
    return _dot(values, x8, c, ok, 0, 4, SIGNED), _dot(values, x8, c, ok, 4, 8, SIGNED)


@triton.jit
def _quarters(values, x8, c, ok, SIGNED: tl.constexpr):
    """The same of the four quarters of a chunk."""
    first = (_dot(values, x8, c, ok, 0, 2, SIGNED), _dot(values, x8, c, ok, 2, 4, SIGNED))
    return first + (_dot(values, x8, c, ok, 4, 6, SIGNED), _dot(values, x8, c, ok, 6, 8, SIGNED))


@triton.jit
def _sum(x8, c, ok, FIRST: tl.constexpr):
    """The sum of 16 int8 numbers: int32 [chunks, 1]."""
    total = c * 0
    ones = total + 0x01010101
    for k in tl.static_range(FIRST, FIRST + 2):
        x = tl.load(x8 + c * 8 + k, mask=ok, other=0)
        total = dot4(ones, x.to(tl.int32), total, True)
        total = dot4(ones, (x >> 32).to(tl.int32), total, True)
    return total[:, None]


@triton.jit
def _sums(x8, c, ok):
    """The sums of the four quarters of 64 int8 numbers."""
    return _sum(x8, c, ok, 0), _sum(x8, c, ok, 2), _sum(x8, c, ok, 4), _sum(x8, c, ok, 6)


@triton.jit
def _floats(pairs, c, ok):
    """The two float32 of word c: [chunks, 1] each."""
    pair = tl.load(pairs + c, mask=ok, other=0)
    return low_float(pair)[:, None], high_float(pair)[:, None]


@triton.jit
def _fours(acc, i, s, xs0, xs1, d, SIGNED: tl.constexpr):
    """acc + the dot products of the quarters of a chunk times their scales, the bytes of s, times
    d; scale and dot product are exact, the two quarters of a half together."""
    if SIGNED:
        first = i[0] * signed_byte(s, 0) + i[1] * signed_byte(s, 1)
        second = i[2] * signed_byte(s, 2) + i[3] * signed_byte(s, 3)
    else:
        first = i[0] * unsigned_byte(s, 0) + i[1] * unsigned_byte(s, 1)
        second = i[2] * unsigned_byte(s, 2) + i[3] * unsigned_byte(s, 3)
    acc = tl.fma(first.to(tl.float32) * d, xs0, acc)
    return tl.fma(second.to(tl.float32) * d, xs1, acc)


@triton.jit
def _twos(acc, i, d0, d1, xs0, xs1):
    """acc + the dot products of the halves of a chunk times their scales."""
    acc = tl.fma(i[0].to(tl.float32) * d0, xs0, acc)
    return tl.fma(i[1].to(tl.float32) * d1, xs1, acc)


@triton.jit
def _weigh_block(acc, words, values, block, x8, sums, c, ok, xs0, xs1, FORMAT: tl.constexpr):
    """`weigh` for formats with blocks of 256 values."""
    d = low_half(block)
    if FORMAT == "Q6_K":
        acc = _fours(acc, _quarters(values, x8, c, ok, True), words[12], xs0, xs1, d * 0.25, True)
    elif FORMAT == "Q3_K":
        i = _quarters(values, x8, c, ok, True)
        acc = _fours(acc, i, words[6], xs0, xs1, d * 0.03125, True)
    elif FORMAT == "Q2_K":
        s, m = words[4] & 0x0F0F0F0F, (words[4] >> 4) & 0x0F0F0F0F
        acc = _fours(acc, _quarters(values, x8, c, ok, False), s, xs0, xs1, d, False)
        acc = _fours(acc, _sums(x8, c, ok), m, xs0, xs1, -high_half(block), False)
    elif FORMAT == "IQ4_XS":
        d0 = d * signed_byte(words[8], 0).to(tl.float32)
        d1 = d * signed_byte(words[8], 1).to(tl.float32)
        acc = _twos(acc, _halves(values, x8, c, ok, True), d0, d1, xs0, xs1)
    else:  # Q4_K, Q5_K
        s = words[8 if FORMAT == "Q4_K" else 10]
        d0 = d * unsigned_byte(s, 0).to(tl.float32)
        d1 = d * unsigned_byte(s, 1).to(tl.float32)
        acc = _twos(acc, _halves(values, x8, c, ok, False), d0, d1, xs0, xs1)
        u0, u1 = _floats(sums, c, ok)
        low = -high_half(block)
        acc = tl.fma(low * unsigned_byte(s, 2).to(tl.float32), u0, acc)
        acc = tl.fma(low * unsigned_byte(s, 3).to(tl.float32), u1, acc)
    return acc


@triton.jit
def weigh(
    acc, words, values, block, x8, scales, sums, c, ok, FORMAT: tl.constexpr, BLOCK: tl.constexpr
):
    """acc + the dot products of weights and activations, float32 [chunks, rows].

    words, values: of `load_words` and `unpack`. block [chunks, rows]: the word of the chunk's
    block, in formats with blocks of 256 values (BLOCK). x8: int8 activations, eight a word. scales,
    sums: two float32 a word, for the halves of a chunk: the activations' scales; scale * sum of the
    int8 numbers. c [chunks]: the chunks, ok: whether each is in the row. Every rounding is written
    down, so that the result is the same however many rows of activations there are.
    """
    xs0, xs1 = _floats(scales, c, ok)
    if BLOCK:
        acc = _weigh_block(acc, words, values, block, x8, sums, c, ok, xs0, xs1, FORMAT)
    elif FORMAT == "Q4_0" or FORMAT == "Q5_0":
        i = _halves(values, x8, c, ok, False)
        s = words[8 if FORMAT == "Q4_0" else 10]
        middle: tl.constexpr = -8.0 if FORMAT == "Q4_0" else -16.0
        u0, u1 = _floats(sums, c, ok)
        acc = tl.fma(low_half(s), tl.fma(i[0].to(tl.float32), xs0, middle * u0), acc)
        acc = tl.fma(high_half(s), tl.fma(i[1].to(tl.float32), xs1, middle * u1), acc)
    elif FORMAT == "Q4_1" or FORMAT == "Q5_1":
        i = _halves(values, x8, c, ok, False)
        s, m = words[8 if FORMAT == "Q4_1" else 10], words[9 if FORMAT == "Q4_1" else 11]
        u0, u1 = _floats(sums, c, ok)
        acc = _twos(acc, i, low_half(s), high_half(s), xs0, xs1)
        acc = tl.fma(low_half(m), u0, acc)
        acc = tl.fma(high_half(m), u1, acc)
    else:  # Q8_0, IQ4_NL, MXFP4
        i = _halves(values, x8, c, ok, True)
        s = words[16 if FORMAT == "Q8_0" else 8]
        if FORMAT == "MXFP4":  # upper halves of float32 numbers
            d0 = (s << 16).to(tl.float32, bitcast=True)
            d1 = (s & -0x10000).to(tl.float32, bitcast=True)
        else:
            d0, d1 = low_half(s), high_half(s)
        acc = _twos(acc, i, d0, d1, xs0, xs1)
    return acc
