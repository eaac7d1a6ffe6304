"""Decoders of the IQ formats on grids, and of the ternary formats: blocks into float32 [n, 256].

A block has 256 values: a float16 d, scales s that mean 2s + 1, and values that are points of a grid
(`grids.py`) with signs, or in IQ1 with 1/8 added or subtracted. No product here is rounded, so the
order of factors does not matter. Layouts: ggml, src/ggml-common.h.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from rbee_worker.checkpoint.decoding import grids
from rbee_worker.checkpoint.decoding.bits import (
    EACH,
    F32,
    NIBBLES,
    PAIRS,
    Bytes,
    Fields,
    Signed,
    half,
    planes,
    scaled,
    spread,
    words,
)


@cache
def _points(name: str) -> Fields:
    """The points of a grid, each as one integer; its bytes are the point's values."""
    levels = grids.levels(name)
    points: Fields = levels.view(np.dtype(f"u{levels.shape[1]}"))[:, 0]
    return points


def _values(grid: str, index: Fields) -> Signed:
    """The values of the points `index` [n, count]: int8 [n, 256]."""
    values: Signed = np.take(_points(grid), index, mode="clip").view(np.int8)
    return values


def _fields(numbers: Fields, width: int) -> Fields:
    """The four lowest fields of `width` bits of each number, lowest first: [n, 4 * count]."""
    shifts = np.arange(4, dtype=numbers.dtype) * numbers.dtype.type(width)
    mask = numbers.dtype.type((1 << width) - 1)
    fields: Fields = (numbers[:, :, None] >> shifts) & mask
    return fields.reshape(len(numbers), -1)


# 7 sign bits -> 8: the last one makes the number of ones even
_EVEN_SIGNS = np.array([n | (n.bit_count() & 1) << 7 for n in range(128)], np.uint8)
# 8 sign bits -> 8 bytes: -1 for a one, 1 for a zero
_SIGNS = (1 - 2 * ((np.arange(256)[:, None] >> np.arange(8)) & 1)).astype(np.int8).view(np.uint64)


def _signed(grid: str, index: Fields, signs: Fields) -> Signed:
    """The values of grid points with their signs (one bit per value, 32 bytes): int8 [n, 256]."""
    values = _values(grid, index)
    values *= np.take(_SIGNS[:, 0], signs, mode="clip").view(np.int8)
    return values


def _scaled(values: Signed, d: F32, scales: Fields, factor: float, out: F32) -> None:
    """out = values [n, 256] * d [n, 1] * (2 * scales + 1) [n, groups] * factor."""
    each = d * (2 * scales.astype(np.float32) + 1) * np.float32(factor)
    scaled(values, each, out)


def iq2_xxs(b: Bytes, out: F32) -> None:
    """Per 32 values: four indices; 32 bits with four times 7 signs, and a scale."""
    n = len(b)
    groups = b[:, 2:].reshape(n, 8, 8)
    numbers = words(groups[:, :, 4:].reshape(n, 32), 0, 32, np.uint32)
    index = groups[:, :, :4].reshape(n, 32)
    values = _signed("IQ2_XXS", index, np.take(_EVEN_SIGNS, _fields(numbers, 7)))
    _scaled(values, half(b, 0), numbers >> 28, 0.125, out)


def iq2_xs(b: Bytes, out: F32) -> None:
    """Per 8 values: 9 index bits, 7 signs; per 16, a scale."""
    q = words(b, 2, 66, np.uint16)
    values = _signed("IQ2_XS", q & 511, np.take(_EVEN_SIGNS, q >> 9))
    _scaled(values, half(b, 0), spread(b[:, 66:], NIBBLES, 15), 0.125, out)


def iq2_s(b: Bytes, out: F32) -> None:
    """Per 8 values: an index byte, a sign byte, two high index bits; per 16, a scale."""
    index = b[:, 2:34] | (spread(b[:, 66:74], PAIRS, 3).astype(np.uint16) << np.uint16(8))
    values = _signed("IQ2_S", index, b[:, 34:66])
    _scaled(values, half(b, 0), spread(b[:, 74:], NIBBLES, 15), 0.125, out)


def iq3_xxs(b: Bytes, out: F32) -> None:
    """Per 4 values: an index; per 32, 32 bits with four times 7 signs, and a scale."""
    numbers = words(b, 66, 98, np.uint32)
    values = _signed("IQ3_XXS", b[:, 2:66], np.take(_EVEN_SIGNS, _fields(numbers, 7)))
    _scaled(values, half(b, 0), numbers >> 28, 0.25, out)


def iq3_s(b: Bytes, out: F32) -> None:
    """Per 4 values: an index byte and a ninth bit; per 8, a sign byte; per 32, a scale."""
    index = b[:, 2:66] | (spread(b[:, 66:74], EACH, 1).astype(np.uint16) << np.uint16(8))
    values = _signed("IQ3_S", index, b[:, 74:106])
    _scaled(values, half(b, 0), spread(b[:, 106:], NIBBLES, 15), 1.0, out)


def _nudged(index: Fields, down: Fields) -> Signed:
    """8 times (point of IQ1's grid + 1/8, or - 1/8 where `down` [n, 32 or 8] is 1): int8 [n,
    256]."""
    values = _values("IQ1", index).reshape(*down.shape, -1) * np.int8(8)
    values += (1 - 2 * down.astype(np.int8))[:, :, None]
    return values.reshape(len(index), 256)


def iq1_s(b: Bytes, out: F32) -> None:
    """Per 8 values: an index byte; per 32, four times 3 high index bits, a 3-bit scale, a sign of
    the 1/8."""
    high = words(b, 34, 50, np.uint16)
    index = b[:, 2:34] | (_fields(high, 3) << np.uint16(8))
    _scaled(_nudged(index, high >> 15), half(b, 0), (high >> 12) & 7, 0.125, out)


def iq1_m(b: Bytes, out: F32) -> None:
    """Per 8 values: an index byte, 3 high index bits, a sign of the 1/8; per 16, a 3-bit scale.
    Four scales take 16 bits, whose highest four are a part of d."""
    high, scales = spread(b[:, 32:48], NIBBLES, 15), words(b, 48, 56, np.uint16)
    index = b[:, :32] | ((high & 7).astype(np.uint16) << np.uint16(8))
    parts = (scales >> 12) << np.arange(0, 16, 4, dtype=np.uint16)
    d = np.bitwise_or.reduce(parts, axis=1, keepdims=True).view(np.float16).astype(np.float32)
    _scaled(_nudged(index, high >> 3), d, _fields(scales, 3), 0.125, out)


def tq1_0(b: Bytes, out: F32) -> None:
    """Values -1, 0, 1 as base-3 digits: five in each of 32 and then 16 bytes, four in each of the
    last 4. A byte is a fraction, so multiplying by 3 moves its next digit before the point."""
    powers = np.array([1, 3, 9, 27, 81], np.uint8)[:, None]
    parts = ((b[:, :32], powers), (b[:, 32:48], powers), (b[:, 48:52], powers[:4]))
    shifted = [(part[:, None, :] * by).reshape(len(b), -1) for part, by in parts]  # modulo 256
    digits = (np.concatenate(shifted, 1).astype(np.uint16) * np.uint16(3)) >> np.uint16(8)
    scaled(digits.astype(np.int8) - np.int8(1), half(b, 52), out)


def tq2_0(b: Bytes, out: F32) -> None:
    """2-bit values minus 1, in two halves of 128 as in Q2_K."""
    scaled(planes(b[:, :64], PAIRS, 32, 3).view(np.int8) - np.int8(1), half(b, 64), out)
