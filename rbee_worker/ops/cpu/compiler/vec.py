"""Vectors with operators, for code that emits IR by the page: weight formats and tiles.

A `Pen` is a builder and the target's feature string; a `Vec` is one value in it. Writing IR this
way instead of in a kernel's Python costs the compiler less time, which a first start waits for.
Integers on the right of an operator stand for vectors of that number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee_worker.ops.cpu.compiler import dots
from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.shared import isa

_QUARTER = e.ir.VectorType(e.i32, 4)


def _quarters(lanes: Sequence[int]) -> list[int]:
    """Lanes 0 .. 3 of one vector and 16 .. 19 of another, likewise in every quarter."""
    return [4 * quarter + lane for quarter in range(4) for lane in lanes]


_HALVES = _quarters((0, 16, 1, 17)), _quarters((2, 18, 3, 19))  # words of two rows by turns
_PAIRS = _quarters((0, 1, 16, 17)), _quarters((2, 3, 18, 19))


@dataclass(frozen=True)
class Vec:
    """16 lanes. `*` and `+` follow the kind; `>>` brings in zeros."""

    pen: Pen
    value: e.Value

    def __and__(self, other: Vec | int) -> Vec:
        return Vec(self.pen, self.pen.b.and_(self.value, self._int(other)))

    def __or__(self, other: Vec | int) -> Vec:
        return Vec(self.pen, self.pen.b.or_(self.value, self._int(other)))

    def __xor__(self, other: Vec | int) -> Vec:
        return Vec(self.pen, self.pen.b.xor(self.value, self._int(other)))

    def __lshift__(self, count: Vec | int) -> Vec:
        return Vec(self.pen, self.pen.b.shl(self.value, self._int(count)))

    def __rshift__(self, count: Vec | int) -> Vec:
        return Vec(self.pen, self.pen.b.lshr(self.value, self._int(count)))

    def sar(self, count: int) -> Vec:
        """Shifted right, the sign coming in."""
        return Vec(self.pen, self.pen.b.ashr(self.value, e.const(count)))

    def __add__(self, other: Vec | int) -> Vec:
        b = self.pen.b
        if self.value.type == e.F32:
            assert isinstance(other, Vec)
            return Vec(self.pen, b.fadd(self.value, other.value))
        return Vec(self.pen, b.add(self.value, self._int(other)))

    def __sub__(self, other: int) -> Vec:
        return Vec(self.pen, self.pen.b.sub(self.value, self._int(other)))

    def __mul__(self, other: Vec | int) -> Vec:
        b = self.pen.b
        if self.value.type == e.F32:
            assert isinstance(other, Vec)
            return Vec(self.pen, b.fmul(self.value, other.value))
        return Vec(self.pen, b.mul(self.value, self._int(other)))

    def __neg__(self) -> Vec:
        """Of a float."""
        return Vec(self.pen, self.pen.b.fsub(e.const(-0.0, e.F32), self.value))

    def to_f32(self) -> Vec:
        """The integer as a float."""
        return Vec(self.pen, self.pen.b.sitofp(self.value, e.F32))

    def as_f32(self) -> Vec:
        """The same bits as a float."""
        return Vec(self.pen, self.pen.b.bitcast(self.value, e.F32))

    def fma(self, factor: Vec, to: Vec) -> Vec:
        """self * factor + to, rounded once."""
        return Vec(self.pen, e.fma(self.pen.b, self.value, factor.value, to.value))

    def lookup(self, table: Sequence[int]) -> Vec:
        """Each byte 0..15 replaced by table[byte]."""
        return Vec(self.pen, dots.lookup(self.pen.b, self.pen.how, table, self.value))

    def less_than(self, other: int, yes: Vec, no: Vec) -> Vec:
        """Lane by lane, self < other ? yes : no (signed)."""
        b = self.pen.b
        below = b.icmp_signed("<", self.value, self._int(other))
        return Vec(self.pen, b.select(below, yes.value, no.value))

    def store(self, p: Ref) -> None:
        """Write all lanes."""
        e.store(self.pen.b, p.value, self.value)

    def store_i8(self, p: Ref) -> None:
        """Write the lowest byte of each lane."""
        e.store(self.pen.b, p.value, self.pen.b.trunc(self.value, e.I8))

    def store_i16(self, p: Ref) -> None:
        """Write the lowest two bytes of each lane."""
        e.store(self.pen.b, p.value, self.pen.b.trunc(self.value, e.I16))

    def _int(self, other: Vec | int) -> e.Value:
        return e.const(other) if isinstance(other, int) else other.value


@dataclass(frozen=True)
class Ref:
    """An address; `+` moves it by a constant or by a computed number of bytes."""

    pen: Pen
    value: e.Value

    def __add__(self, offset: int | Ref) -> Ref:
        if isinstance(offset, int):
            return Ref(self.pen, e.at(self.pen.b, self.value, offset))
        return Ref(self.pen, self.pen.b.add(self.value, offset.value))

    def __mul__(self, factor: int) -> Ref:
        return Ref(self.pen, self.pen.b.mul(self.value, e.number(factor)))


@dataclass(frozen=True)
class Pen:
    """Where instructions are appended, and for which processor."""

    b: e.Builder
    target: str

    @property
    def how(self) -> str:
        """The integer dot product; `isa.Isa.dot`."""
        return isa.dot_of(self.target)

    @property
    def native_f16(self) -> bool:
        """Whether the processor converts half precision itself."""
        return isa.converts_f16(self.target)

    def ref(self, value: e.Value) -> Ref:
        return Ref(self, value)

    def vec(self, value: e.Value) -> Vec:
        return Vec(self, value)

    def zeros(self) -> Vec:
        return Vec(self, e.const(0.0, e.F32))

    def izeros(self) -> Vec:
        return Vec(self, e.const(0))

    def number(self, value: float) -> Vec:
        """All lanes the float `value`."""
        return Vec(self, e.const(value, e.F32))

    def load(self, p: Ref) -> Vec:
        """64 bytes as integers."""
        return Vec(self, e.load(self.b, p.value, e.I32))

    def load_f32(self, p: Ref) -> Vec:
        return Vec(self, e.load(self.b, p.value, e.F32, 4))

    def load_u8(self, p: Ref) -> Vec:
        return Vec(self, self.b.zext(e.load(self.b, p.value, e.I8), e.I32))

    def load_s8(self, p: Ref) -> Vec:
        return Vec(self, self.b.sext(e.load(self.b, p.value, e.I8), e.I32))

    def load_f16(self, p: Ref) -> Vec:
        bits = e.load(self.b, p.value, e.I16)
        return Vec(self, e.widen_f16(self.b, bits, isa.converts_f16(self.target)))

    def load_bf16(self, p: Ref) -> Vec:
        return Vec(self, e.widen_bf16(self.b, e.load(self.b, p.value, e.I16)))

    def splat(self, p: Ref) -> Vec:
        """All lanes the float at p."""
        return Vec(self, e.splat(self.b, e.load(self.b, p.value, e.f32, 4), e.F32))

    def isplat(self, p: Ref) -> Vec:
        """All lanes the 32-bit integer at p."""
        return Vec(self, e.splat(self.b, e.load(self.b, p.value, e.i32, 4), e.I32))

    def dot(self, acc: Vec, u: Vec, s: Vec) -> Vec:
        """acc plus 4 products of u's unsigned and s's signed bytes, in each lane."""
        return Vec(self, dots.dot(self.b, self.how, acc.value, u.value, s.value))

    def gather(self, p: Ref, stride: Ref, size: int = 4) -> Vec:
        """`size` (1, 2 or 4) bytes at p, p + stride, .. p + 15 stride, zero-extended."""
        kind = {1: e.i8, 2: e.i16, 4: e.i32}[size]
        v, at = e.const(0), p
        for lane in range(e.LANES):
            word = e.load(self.b, at.value, kind)
            word = word if size == 4 else self.b.zext(word, e.i32)
            v = self.b.insert_element(v, word, e.number(lane, e.i32))
            at = at + stride
        return Vec(self, v)

    def quad(self, p: Ref, stride: Ref) -> list[Vec]:
        """16 bytes at p, p + stride, .. p + 15 stride: as 4 vectors of 4 bytes of each row.

        What 4 calls of `gather` give, in a sixth of the instructions: whole loads, and a transpose
        of 4 x 4 words within each quarter of a vector.
        """
        at, rows = p, []
        for _ in range(e.LANES):
            rows.append(e.load(self.b, at.value, _QUARTER))
            at = at + stride
        a, b, c, d = (self._joined(rows[i::4]) for i in range(4))
        pairs = (self._mixed(x, y, order) for order in _HALVES for x, y in ((a, b), (c, d)))
        low, low2, high, high2 = pairs
        return [
            Vec(self, self._mixed(x, y, order))
            for x, y in ((low, low2), (high, high2))
            for order in _PAIRS
        ]

    def _joined(self, quarters: Sequence[e.Value]) -> e.Value:
        """4 vectors of 4 lanes, one after another."""
        two, four = range(8), range(16)
        first = self._mixed(quarters[0], quarters[1], two)
        return self._mixed(first, self._mixed(quarters[2], quarters[3], two), four)

    def _mixed(self, x: e.Value, y: e.Value, lanes: Sequence[int]) -> e.Value:
        return self.b.shuffle_vector(
            x, y, e.ir.Constant(e.ir.VectorType(e.i32, len(lanes)), [*lanes])
        )

    def pick(self, p: Ref, index: Vec, each: int) -> Vec:
        """4 bytes at p + each * index, lane by lane."""
        v = e.const(0)
        for lane in range(e.LANES):
            at = e.number(lane, e.i32)
            steps = self.b.zext(self.b.extract_element(index.value, at), e.i64)
            word = e.load(self.b, (p + Ref(self, steps) * each).value, e.i32)
            v = self.b.insert_element(v, word, at)
        return Vec(self, v)
