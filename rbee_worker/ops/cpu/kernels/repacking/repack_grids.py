"""Repacking raw rows of grid and ternary formats: grid points become codes, value by value.

A code is the number of the value on its grid, and one bit more: the sign (IQ2, IQ3), or for IQ1
whether an eighth is subtracted instead of added. Codes of three bits are laid out as in Q3_K, codes
of four bits as in IQ4_XS (`blocks.py`); scales s become 2s + 1. Ternary formats become Q2_K with
scales and minimums of 1. Nothing is rounded. Raw layouts: ggml's block structs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, op
from rbee_worker.ops.cpu.compiler.vec import Pen, Ref, Vec
from rbee_worker.ops.cpu.kernels.repacking.bit_planes import (
    bit_plane,
    bits_to_bytes,
    gathered,
    half,
    pair_planes,
    store,
)

_POWERS = (1, 3, 9, 27, 81)
DOWN = 0x04040404  # in all four bytes, the bit of a three-bit code for "subtract"


class Raw(NamedTuple):
    """The 32 columns from 64 j + 32 h on of the units at p, whose rows are `st` bytes apart."""

    pen: Pen
    p: Ref
    st: Ref
    j: Ref
    h: int
    grid: Ref

    def get(self, a: int, b: int = 0, c: int = 0, size: int = 4) -> Vec:
        """`size` bytes at a + b * j + c * h of a unit's row."""
        return self.pen.gather(self.p + self.j * b + (a + c * self.h), self.st, size)

    def eight(self, index: Vec) -> list[Vec]:
        """A point of 8 values: two words."""
        return [self.pen.pick(self.grid + 4 * k, index, 8) for k in range(2)]

    def four(self, index: Vec) -> Vec:
        """A point of 4 values: a word."""
        return self.pen.pick(self.grid, index, 4)


class Codes(NamedTuple):
    """32 columns: 8 words of codes, and scales s (held as 2s + 1): one, or one for each half."""

    words: list[Vec]
    scales: tuple[Vec, ...]


def _byte(v: Vec, k: int) -> Vec:
    return (v >> (8 * k)) & 255


def _even(seven: Vec) -> Vec:
    """7 sign bits -> 8; the last one makes the number of set bits even."""
    parity = seven ^ (seven >> 4)
    parity = parity ^ (parity >> 2)
    return seven | (((parity ^ (parity >> 1)) & 1) << 7)


def _signed(words: Sequence[Vec], signs: Vec, bit: int) -> list[Vec]:
    """Two words, with 8 sign bits added to their bytes as bit `bit`."""
    return [w | (bits_to_bytes(signs >> (4 * k)) << bit) for k, w in enumerate(words)]


def iq2_xxs(raw: Raw) -> Codes:
    """4 bytes of indices, then 4 times 7 signs and a scale."""
    index, rest = raw.get(2, 16, 8), raw.get(6, 16, 8)
    words = []
    for k in range(4):
        words += _signed(raw.eight(_byte(index, k)), _even((rest >> (7 * k)) & 127), 2)
    return Codes(words, (rest >> 28,) * 2)


def iq2_xs(raw: Raw) -> Codes:
    """For each 8 columns 9 bits of index and 7 signs."""
    words = []
    for k in range(4):
        q = raw.get(2 + 2 * k, 16, 8, 2)
        words += _signed(raw.eight(q & 511), _even(q >> 9), 2)
    scale = raw.get(66, 2, 1, 1)
    return Codes(words, (scale & 15, scale >> 4))


def iq2_s(raw: Raw) -> Codes:
    """For each 8 columns a byte of index and two more bits, and a byte of signs."""
    index, signs, high = raw.get(2, 8, 4), raw.get(34, 8, 4), raw.get(66, 2, 1, 1)
    words = []
    for k in range(4):
        point = _byte(index, k) | (((high >> (2 * k)) & 3) << 8)
        words += _signed(raw.eight(point), _byte(signs, k), 2)
    scale = raw.get(74, 2, 1, 1)
    return Codes(words, (scale & 15, scale >> 4))


def iq3_xxs(raw: Raw) -> Codes:
    """8 bytes of indices; elsewhere 4 times 7 signs, and a scale."""
    indices, rest = [raw.get(2, 16, 8), raw.get(6, 16, 8)], raw.get(66, 8, 4)
    words = []
    for k in range(4):
        points = [raw.four(_byte(indices[k // 2], 2 * k % 4 + n)) for n in range(2)]
        words += _signed(points, _even((rest >> (7 * k)) & 127), 3)
    return Codes(words, (rest >> 28,))


def iq3_s(raw: Raw) -> Codes:
    """8 bytes of indices, a ninth bit for each, and 4 bytes of signs."""
    indices, high = [raw.get(2, 16, 8), raw.get(6, 16, 8)], raw.get(66, 2, 1, 1)
    signs, words = raw.get(74, 8, 4), []
    for k in range(4):
        points = []
        for n in (2 * k, 2 * k + 1):
            point = _byte(indices[n // 4], n % 4) | (((high >> n) & 1) << 8)
            points.append(raw.four(point))
        words += _signed(points, _byte(signs, k), 3)
    return Codes(words, ((raw.get(106, 1, 0, 1) >> (4 * raw.h)) & 15,))


def iq1_s(raw: Raw) -> Codes:
    """4 bytes of index; 16 bits: 4 times 3 high bits, a scale of 3 bits, and "subtract"."""
    index, high = raw.get(2, 8, 4), raw.get(34, 4, 2, 2)
    down, words = (high >> 15) * DOWN, []
    for k in range(4):
        point = _byte(index, k) | (((high >> (3 * k)) & 7) << 8)
        words += [w | down for w in raw.eight(point)]
    return Codes(words, ((high >> 12) & 7,) * 2)


def iq1_m(raw: Raw) -> Codes:
    """4 bytes of index; 4 times 3 high bits and "subtract"; 16 bits for 64 columns: 4 scales of
    3 bits, and a part of d."""
    index, high = raw.get(0, 8, 4), raw.get(32, 4, 2, 2)
    words = []
    for k in range(4):
        nibble = (high >> (4 * k)) & 15
        down = (nibble >> 3) * DOWN
        words += [w | down for w in raw.eight(_byte(index, k) | ((nibble & 7) << 8))]
    scales = raw.get(48, 2, 0, 2) >> (6 * raw.h)
    return Codes(words, (scales & 7, (scales >> 3) & 7))


POINTS: dict[str, tuple[Callable[[Raw], Codes], int]] = {  # raw bytes of a unit's row
    "iq1_s": (iq1_s, 50),
    "iq1_m": (iq1_m, 56),
    "iq2_xxs": (iq2_xxs, 66),
    "iq2_xs": (iq2_xs, 74),
    "iq2_s": (iq2_s, 82),
    "iq3_xxs": (iq3_xxs, 98),
    "iq3_s": (iq3_s, 110),
}
_FOUR_BITS = ("iq3_xxs", "iq3_s")


def start(name: str) -> Any:
    """An operation (p, stride, to) that copies d, which a unit has once."""

    def write(b: e.Builder, target: str, p: e.Value, stride: e.Value, to: e.Value) -> None:
        pen = Pen(b, target)
        raw, st, out = pen.ref(p), pen.ref(stride), pen.ref(to)
        at = out + (2176 if name in _FOUR_BITS else 1792)
        if name != "iq1_m":
            half(pen, raw, st, at)
            return
        d = pen.izeros()
        for k in range(4):
            d = d | ((pen.gather(raw + (48 + 2 * k), st, 2) >> 12) << (4 * k))
        d.store_i16(at)

    return op(s.Void, Ptr, Ptr, Ptr, target=True)(write)


def pair(name: str) -> Any:
    """An operation (p, stride, to, grid, j) that repacks columns 64 j .. 64 j + 63 of a unit."""
    read, _ = POINTS[name]

    def write(
        b: e.Builder, target: str, p: e.Value, stride: e.Value, to: e.Value, grid: e.Value,
        j: e.Value,
    ) -> None:  # fmt: skip
        pen = Pen(b, target)
        for h in range(2):
            codes = read(Raw(pen, pen.ref(p), pen.ref(stride), pen.ref(j), h, pen.ref(grid)))
            _put(pen, codes, pen.ref(to), pen.ref(j), h)

    return op(s.Void, Ptr, Ptr, Ptr, Ptr, Int, target=True)(write)


def _put(pen: Pen, codes: Codes, to: Ref, j: Ref, h: int) -> None:
    """Write block 2 j + h of the unit at `to`."""
    words, scales = codes.words, [(s << 1) | 1 for s in codes.scales]
    if len(scales) == 1:
        joined = [a | (b << 4) for a, b in zip(words[:4], words[4:], strict=True)]
        store(joined, to + j * 512 + 256 * h)
        scales[0].store_i8(to + j * 32 + (2048 + 16 * h))
        return
    at = to + j * 384 + 192 * h
    store(pair_planes(pen, words, 0), at)
    bit_plane(pen, words, 2).store(at + 128)
    for k, scale in enumerate(scales):
        scale.store_i8(to + j * 64 + (1536 + 32 * h + 16 * k))


def tq2_0(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    """Two bits a value, in two halves of 128 columns, as in Q2_K."""
    for c in range(2):
        words = gathered(pen, p + 32 * c, st, 8)
        for j in range(4):
            store(pair_planes(pen, words, 2 * j), to + 128 * (4 * c + j))
    _ones(pen, p + 64, st, to)


def tq1_0(pen: Pen, p: Ref, st: Ref, to: Ref) -> None:
    """Digits in base 3: 5 in each of 32 bytes, 5 in each of 16 bytes, 4 in each of 4 bytes."""
    many, some = gathered(pen, p, st, 8), gathered(pen, p + 32, st, 4)
    few = pen.gather(p + 48, st)
    blocks = [[_digit(w, n) for w in many] for n in range(5)]
    blocks += [[_digit(w, n + i) for i in range(2) for w in some] for n in (0, 2)]
    blocks.append([_digit(w, 4) for w in some] + [_digit(few, n) for n in range(4)])
    for j, words in enumerate(blocks):
        store(pair_planes(pen, words, 0), to + 128 * j)
    _ones(pen, p + 52, st, to)


def _digit(v: Vec, n: int) -> Vec:
    """Digit n after the point of each byte, which is a fraction in base 3."""

    def two(v: Vec) -> Vec:  # the bytes at even places
        return ((((v & 0x00FF00FF) * _POWERS[n]) & 0x00FF00FF) * 3 >> 8) & 0x00FF00FF

    return two(v) | (two(v >> 8) << 8)


def _ones(pen: Pen, d: Ref, st: Ref, to: Ref) -> None:
    """Q2_K's scales and minimums of 1: a value q becomes d q - d."""
    one = pen.izeros() | 0x11
    for j in range(16):
        one.store_i8(to + (1024 + 16 * j))
    half(pen, d, st, to + 1280)
    half(pen, d, st, to + 1312)
