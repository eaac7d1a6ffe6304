"""Decoders of ggml's block formats, except those on grids (`gridded.py`).

Each takes blocks uint8 [n, bytes] and writes their values into float32 [n, block].
"""

from __future__ import annotations

import numpy as np

from rbee_worker.checkpoint.decoding.bits import (
    EACH,
    F32,
    NIBBLES,
    PAIRS,
    Bytes,
    half,
    lowered,
    planes,
    scaled,
    spread,
)


def _nibbles(b: Bytes) -> Bytes:
    """Low nibbles, then high nibbles, of each row: uint8 [n, 2 * width]."""
    return planes(b, NIBBLES, b.shape[1], 15)


def _fifth_bits(b: Bytes) -> Bytes:
    """Bits 0 .. 31 of four bytes a row, each as 0 or 16: uint8 [n, 32]."""
    return spread(b, EACH, 1) << np.uint8(4)


def q4_0(b: Bytes, out: F32) -> None:
    """32 values of 4 bits, minus 8."""
    scaled(_nibbles(b[:, 2:]).view(np.int8) - np.int8(8), half(b, 0), out)


def q4_1(b: Bytes, out: F32) -> None:
    """32 values of 4 bits, plus a minimum."""
    scaled(_nibbles(b[:, 4:]), half(b, 0), out)
    out += half(b, 2)


def q5_0(b: Bytes, out: F32) -> None:
    """32 values of 5 bits, minus 16; the fifth bits come first."""
    q = _nibbles(b[:, 6:]) | _fifth_bits(b[:, 2:6])
    scaled(q.view(np.int8) - np.int8(16), half(b, 0), out)


def q5_1(b: Bytes, out: F32) -> None:
    """32 values of 5 bits, plus a minimum."""
    scaled(_nibbles(b[:, 8:]) | _fifth_bits(b[:, 4:8]), half(b, 0), out)
    out += half(b, 2)


def q8_0(b: Bytes, out: F32) -> None:
    """32 values of 8 bits."""
    scaled(b[:, 2:].view(np.int8), half(b, 0), out)


def q2_k(b: Bytes, out: F32) -> None:
    """16 groups of 16, each with a 4-bit scale and minimum; 2-bit values in two halves of 128."""
    scales = b[:, :16]
    scaled(planes(b[:, 16:80], PAIRS, 32, 3), half(b, 80) * (scales & 15), out)
    lowered(out, half(b, 82) * (scales >> 4))


def q3_k(b: Bytes, out: F32) -> None:
    """16 groups of 16: 6-bit scales minus 32; values of 2 bits and an inverted third bit."""
    scales = _nibbles(b[:, 96:104]) | (planes(b[:, 104:108], PAIRS, 4, 3) << np.uint8(4))
    missing = (planes(b[:, :32], EACH, 32, 1) ^ np.uint8(1)) << np.uint8(2)
    q = planes(b[:, 32:96], PAIRS, 32, 3).view(np.int8) - missing.view(np.int8)
    scaled(q, half(b, 108) * (scales.view(np.int8) - np.int8(32)), out)


def _scale_min_k4(b: Bytes) -> tuple[Bytes, Bytes]:
    """Twelve bytes as eight 6-bit scales and eight 6-bit minimums: two uint8 [n, 8]."""
    a, m, x = b[:, 0:4], b[:, 4:8], b[:, 8:12]
    scale = np.concatenate((a & 63, (x & 15) | ((a >> 2) & 0x30)), 1)
    low = np.concatenate((m & 63, (x >> 4) | ((m >> 2) & 0x30)), 1)
    return scale, low


def _k4(b: Bytes, q: Bytes, out: F32) -> None:
    """Values q uint8 [n, 256] of Q4_K and Q5_K with their scales and minimums."""
    scale, low = _scale_min_k4(b[:, 4:16])
    scaled(q, half(b, 0) * scale, out)
    lowered(out, half(b, 2) * low)


def q4_k(b: Bytes, out: F32) -> None:
    """8 groups of 32: 6-bit scales and minimums, 4-bit values."""
    _k4(b, planes(b[:, 16:144], NIBBLES, 32, 15), out)


def q5_k(b: Bytes, out: F32) -> None:
    """Like Q4_K, with a fifth bit for each value."""
    fifth = planes(b[:, 16:48], EACH, 32, 1) << np.uint8(4)
    _k4(b, planes(b[:, 48:176], NIBBLES, 32, 15) | fifth, out)


def q6_k(b: Bytes, out: F32) -> None:
    """16 groups of 16: 8-bit scales; values of 4 + 2 bits, minus 32, in two halves of 128."""
    low = planes(b[:, :128], NIBBLES, 64, 15)
    high = planes(b[:, 128:192], PAIRS, 32, 3) << np.uint8(4)
    q = (low | high).view(np.int8) - np.int8(32)
    scaled(q, half(b, 208) * b[:, 192:208].view(np.int8), out)


IQ4 = np.array(  # IQ4_NL and IQ4_XS: the value of each nibble
    [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113], np.float32
)
FP4 = np.array(  # MXFP4: twice the value of each nibble (sign, 2 exponent bits, 1 fraction bit)
    [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32
)


def _looked_up(table: F32, nibbles: Bytes, scales: F32, out: F32) -> None:
    """out = table[nibbles] [n, m], each group times its scale [n, groups]."""
    np.take(table, nibbles, out=out, mode="clip")
    by_group = out.reshape(*scales.shape, -1)
    by_group *= scales[:, :, None]


def iq4_nl(b: Bytes, out: F32) -> None:
    """32 values from a table."""
    _looked_up(IQ4, _nibbles(b[:, 2:]), half(b, 0), out)


def iq4_xs(b: Bytes, out: F32) -> None:
    """8 groups of 32: 6-bit scales minus 32 (their high two bits in two bytes, then the low
    four)."""
    scale = spread(b[:, 4:8], NIBBLES, 15) | (spread(b[:, 2:4], PAIRS, 3) << np.uint8(4))
    scales = half(b, 0) * (scale.view(np.int8) - np.int8(32))
    _looked_up(IQ4, planes(b[:, 8:], NIBBLES, 16, 15), scales, out)


def mxfp4(b: Bytes, out: F32) -> None:
    """A scale that is only an exponent e: 2^(e - 128), because the table holds doubled values."""
    e = b[:, :1].astype(np.int32)
    bits = np.where(e < 2, (e + 1) << 21, (e - 1) << 23).astype(np.int32)  # below 2: subnormal
    _looked_up(FP4, _nibbles(b[:, 1:]), bits.view(np.float32), out)
