"""Reading held units: an unpacker appends code that reads block j (32 columns) of the unit at p.

The layout of a block, each plane 16 rows wide, in this order: nibbles, 4 x 64 bytes (column c in
the low half of a byte, column c + 16 in the high half); two-bit planes, 2 x 64 bytes (column 4k + i
of 16 at bits 2k of byte i); one-bit planes, 64 bytes (column 4k + i of 32 at bit k of byte i). A
unit of 256 columns holds the planes of its 8 blocks one after another, then 8-bit scales, then
16-bit ones. ggml's block formats define what the numbers mean. Floats: f32 and f16 column by
column; bf16 two columns to a lane, so that one instruction makes each of them a float.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from rbee_worker.ops.cpu.compiler.vec import Pen, Ref, Vec

M4, M2, M1 = 0x0F0F0F0F, 0x03030303, 0x01010101
RAISED = 4  # bits

IQ4 = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
FP4 = (0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12)  # twice the value
# The value of each code. IQ1: 8 times the grid point, plus 1, or minus 1 from code 4 on. The
# others: the grid value with its sign.
IQ1 = (-7, 1, 9, 0, -9, -1, 7, 0)
IQ2 = (8, 25, 43, 0, -8, -25, -43, 0)
IQ3_XXS = (4, 12, 20, 28, 36, 44, 52, 62, -4, -12, -20, -28, -36, -44, -52, -62)
IQ3_S = (1, 3, 5, 7, 9, 11, 13, 15, -1, -3, -5, -7, -9, -11, -13, -15)


@dataclass(frozen=True)
class Encoding:
    """How unsigned bytes u encode a block's weights: w = d * (u - offset) + m.

    halves: d and m change after 16 columns. offset: a power of two, or 0. mins: there is an m.
    most: the largest magnitude of u - offset, where there are halves. top: the largest u.
    """

    halves: bool = False
    offset: int = 0
    mins: bool = False
    most: int = 0
    top: int = 255


class Block(NamedTuple):
    """w: 8 vectors; the bytes of vector k are columns 4k .. 4k+3. d, m: one for each half.

    raised: the bytes of vectors 4 to 7 times 2^RAISED, for formats where these are cheaper to get.
    Blocks of a unit of 256 columns have d = unit * scale: `scale` are the block's integers, `unit`
    is the scale of the unit.
    """

    w: list[Vec]
    d: tuple[Vec, Vec]
    m: tuple[Vec, Vec] | None = None
    raised: list[Vec] | None = None
    unit: Vec | None = None
    scale: tuple[Vec, Vec] | None = None


def _scaled(
    w: list[Vec],
    unit: Vec,
    scale: tuple[Vec, Vec],
    m: tuple[Vec, Vec] | None = None,
    raised: list[Vec] | None = None,
) -> Block:
    a, b = scale
    return Block(w, (unit * a.to_f32(), unit * b.to_f32()), m, raised, unit, scale)


def floats(pen: Pen, p: Ref, name: str) -> Callable[[int], Vec]:
    """A function that reads a column of the unit of floats at p."""

    def bf16(column: int) -> Vec:
        two = pen.load(p + 64 * (column // 2))
        return (two & -0x10000 if column % 2 else two << 16).as_f32()

    def f16(column: int) -> Vec:
        return pen.load_f16(p + 32 * column)

    def f32(column: int) -> Vec:
        return pen.load_f32(p + 64 * column)

    return {"bf16": bf16, "f16": f16, "f32": f32}[name]


def nibbles(pen: Pen, p: Ref) -> list[Vec]:
    """8 vectors of 4-bit numbers."""
    v = [pen.load(p + 64 * k) for k in range(4)]
    return [x & M4 for x in v] + [(x >> 4) & M4 for x in v]


def _high(pen: Pen, p: Ref) -> list[Vec]:
    """The last 4 vectors of `nibbles`, raised: they are in the high halves of bytes."""
    return [pen.load(p + 64 * k) & (M4 << 4) - (1 << 32) for k in range(4)]


def pairs(pen: Pen, p: Ref) -> list[Vec]:
    """8 vectors of 2-bit numbers."""
    return [(v >> (2 * k)) & M2 for v in (pen.load(p), pen.load(p + 64)) for k in range(4)]


def with_bits(pen: Pen, w: list[Vec], p: Ref, to: int) -> list[Vec]:
    """Numbers with the one-bit plane at p added as bit `to`."""
    h = pen.load(p)
    return [x | (((h >> k) & M1) << to) for k, x in enumerate(w)]


def q4_0(pen: Pen, p: Ref, j: Ref) -> Block:
    return Block(nibbles(pen, p), (pen.load_f16(p + 256),) * 2, raised=_high(pen, p))


def q4_1(pen: Pen, p: Ref, j: Ref) -> Block:
    d, m = pen.load_f16(p + 256), pen.load_f16(p + 288)
    return Block(nibbles(pen, p), (d, d), (m, m), _high(pen, p))


def q5_0(pen: Pen, p: Ref, j: Ref) -> Block:
    w = with_bits(pen, nibbles(pen, p), p + 256, 4)
    return Block(w, (pen.load_f16(p + 320),) * 2)


def q5_1(pen: Pen, p: Ref, j: Ref) -> Block:
    w = with_bits(pen, nibbles(pen, p), p + 256, 4)
    return Block(w, (pen.load_f16(p + 320),) * 2, (pen.load_f16(p + 352),) * 2)


def q8_0(pen: Pen, p: Ref, j: Ref) -> Block:
    """Bytes are held with 128 added."""
    w = [pen.load(p + 64 * k) for k in range(8)]
    return Block(w, (pen.load_f16(p + 512),) * 2)


def iq4_nl(pen: Pen, p: Ref, j: Ref) -> Block:
    return Block(_code(nibbles(pen, p), IQ4), (pen.load_f16(p + 256),) * 2)


def mxfp4(pen: Pen, p: Ref, j: Ref) -> Block:
    """The scale is only an exponent x: 2^(x - 128), because the table has doubled values."""
    x = pen.load_u8(p + 256)
    subnormal = ((x + 1) << 21).as_f32()  # x = 0, 1
    d = x.less_than(2, subnormal, ((x - 1) << 23).as_f32())
    return Block(_code(nibbles(pen, p), FP4), (d,) * 2)


def q4_k(pen: Pen, p: Ref, j: Ref) -> Block:
    at = p + j * 256
    return _scaled(nibbles(pen, at), *_scales_and_mins(pen, p + 2048, j), _high(pen, at))


def q5_k(pen: Pen, p: Ref, j: Ref) -> Block:
    at = p + j * 320
    w = with_bits(pen, nibbles(pen, at), at + 256, 4)
    return _scaled(w, *_scales_and_mins(pen, p + 2560, j))


def q6_k(pen: Pen, p: Ref, j: Ref) -> Block:
    at = p + j * 384
    high = pairs(pen, at + 256)
    w = [x | (h << 4) for x, h in zip(nibbles(pen, at), high, strict=True)]
    return _scaled(w, pen.load_f16(p + 3328), _signed_scales(pen, p + 3072, j))


def q3_k(pen: Pen, p: Ref, j: Ref) -> Block:
    at = p + j * 192
    w = with_bits(pen, pairs(pen, at), at + 128, 2)
    return _scaled(w, pen.load_f16(p + 1792), _signed_scales(pen, p + 1536, j))


def q2_k(pen: Pen, p: Ref, j: Ref) -> Block:
    """A byte holds a 4-bit scale and, in its high half, a 4-bit minimum."""
    at = p + j * 32 + 1024
    d, low = pen.load_f16(p + 1280), -pen.load_f16(p + 1312)
    a, b = pen.load_u8(at), pen.load_u8(at + 16)
    m = low * (a >> 4).to_f32(), low * (b >> 4).to_f32()
    return _scaled(pairs(pen, p + j * 128), d, (a & 15, b & 15), m)


def iq4_xs(pen: Pen, p: Ref, j: Ref) -> Block:
    scale = (pen.load_s8(p + j * 16 + 2048),) * 2
    return _scaled(_code(nibbles(pen, p + j * 256), IQ4), pen.load_f16(p + 2176), scale)


def eighths(levels: tuple[int, ...]) -> Callable[[Pen, Ref, Ref], Block]:
    """Three bits a column, laid out as in Q3_K; IQ1 and IQ2."""

    def read(pen: Pen, p: Ref, j: Ref) -> Block:
        at = p + j * 192
        codes = with_bits(pen, pairs(pen, at), at + 128, 2)
        d = pen.load_f16(p + 1792) * pen.number(0.125)
        return _scaled(_code(codes, levels + levels), d, _signed_scales(pen, p + 1536, j))

    return read


def iq3_xxs(pen: Pen, p: Ref, j: Ref) -> Block:
    d, scale = pen.load_f16(p + 2176) * pen.number(0.25), pen.load_s8(p + j * 16 + 2048)
    return _scaled(_code(nibbles(pen, p + j * 256), IQ3_XXS), d, (scale,) * 2)


def iq3_s(pen: Pen, p: Ref, j: Ref) -> Block:
    scale = (pen.load_s8(p + j * 16 + 2048),) * 2
    return _scaled(_code(nibbles(pen, p + j * 256), IQ3_S), pen.load_f16(p + 2176), scale)


def _code(w: list[Vec], table: tuple[int, ...]) -> list[Vec]:
    return [v.lookup([t + 128 for t in table]) for v in w]


def _scales_and_mins(pen: Pen, p: Ref, j: Ref) -> tuple[Vec, tuple[Vec, Vec], tuple[Vec, Vec]]:
    """Q4_K, Q5_K: 8 scales and 8 minimums of 6 bits, then d and the minimums' d."""
    at = p + j * 16
    scale, m = pen.load_u8(at), -pen.load_f16(p + 288) * pen.load_u8(at + 128).to_f32()
    return pen.load_f16(p + 256), (scale, scale), (m, m)


def _signed_scales(pen: Pen, p: Ref, j: Ref) -> tuple[Vec, Vec]:
    """The two scales of block j, of 16 signed ones."""
    at = p + j * 32
    return pen.load_s8(at), pen.load_s8(at + 16)


BLOCKS: dict[str, tuple[Callable[[Pen, Ref, Ref], Block], Encoding]] = {
    "q4_0": (q4_0, Encoding(offset=8, top=15)),
    "q4_1": (q4_1, Encoding(mins=True, top=15)),
    "q5_0": (q5_0, Encoding(offset=16, top=31)),
    "q5_1": (q5_1, Encoding(mins=True, top=31)),
    "q8_0": (q8_0, Encoding(offset=128)),
    "q2_k": (q2_k, Encoding(halves=True, mins=True, most=3, top=3)),
    "q3_k": (q3_k, Encoding(halves=True, offset=4, most=4, top=7)),
    "q4_k": (q4_k, Encoding(mins=True, top=15)),
    "q5_k": (q5_k, Encoding(mins=True, top=31)),
    "q6_k": (q6_k, Encoding(halves=True, offset=32, most=32, top=63)),
    "iq4_nl": (iq4_nl, Encoding(offset=128)),
    "iq4_xs": (iq4_xs, Encoding(offset=128)),
    "mxfp4": (mxfp4, Encoding(offset=128)),
    "iq1": (eighths(IQ1), Encoding(halves=True, offset=128, most=9)),
    "iq2": (eighths(IQ2), Encoding(halves=True, offset=128, most=43)),
    "iq3_xxs": (iq3_xxs, Encoding(offset=128)),
    "iq3_s": (iq3_s, Encoding(offset=128)),
}
