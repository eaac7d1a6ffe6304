"""Vectors with operators: the builder's way to write kernels (see the package's docstring).

A `Pen` is a builder and the target's feature string; a `Vec` is one value in it, a `Ref` is an
address. Every method is an operation of `simd.py`. An integer on the right of an operator stands
for a vector that holds it in every lane.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.values import constant
from rbee_worker.ops.cpu.shared import isa

_QUARTER = e.ir.VectorType(e.i32, 4)


def _quarters(lanes: Sequence[int]) -> list[int]:
    """Lanes 0 .. 3 of one vector and 16 .. 19 of another, likewise in every quarter."""
    return [4 * quarter + lane for quarter in range(4) for lane in lanes]


_HALVES = _quarters((0, 16, 1, 17)), _quarters((2, 18, 3, 19))  # words of two rows, alternating
_PAIRS = _quarters((0, 1, 16, 17)), _quarters((2, 3, 18, 19))


def _loads(what: Any) -> Callable[[Pen, Ref], Vec]:
    """A method of `Pen`: an operation on an address that gives a vector."""
    return lambda pen, p: pen.do(what, p)


def _stores(what: Any) -> Callable[[Vec, Ref], None]:
    """A method of `Vec`: an operation on an address and a vector."""
    return lambda v, p: v.pen.run(what, p, v)


def _unary(what: Any) -> Callable[[Vec], Vec]:
    """A method or operator of `Vec` with no operand."""
    return lambda v: v.pen.do(what, v)


def _integers(what: Any) -> Callable[[Vec, Vec | int], Vec]:
    """An operator of integer vectors."""
    return lambda v, other: v.pen.do(what, v, v.pen.lanes(other))


def _either(of_integers: Any, of_floats: Any) -> Callable[[Vec, Vec | int], Vec]:
    """An operator of integer and float vectors."""

    def method(v: Vec, other: Vec | int) -> Vec:
        if v.value.type == e.F32:
            return v.pen.do(of_floats, v, other)
        return v.pen.do(of_integers, v, v.pen.lanes(other))

    return method


def _shifts(what: Any) -> Callable[[Vec, int], Vec]:
    """An operator that shifts every lane by the same number of bits."""
    return lambda v, count: v.pen.do(what, v, count)


@dataclass(frozen=True)
class Vec:
    """16 lanes. `*` and `+` follow the kind; `>>` brings in zeros, `sar` the sign."""

    pen: Pen
    value: e.Value

    __and__, __or__, __xor__ = _integers(s.iand), _integers(s.ior), _integers(s.ixor)
    __lshift__, __rshift__, sar = _shifts(s.shl), _shifts(s.shr), _shifts(s.sar)
    __add__, __sub__, __mul__ = (
        _either(s.iadd, s.add),
        _either(s.isub, s.sub),
        _either(s.imul, s.mul),
    )
    __neg__ = _unary(s.negated)  # of a float
    to_f32 = _unary(s.to_f32)  # the integer as a float
    as_f32 = _unary(s.as_f32)  # the same bits as a float
    store_i8 = _stores(s.store_i8)  # the lowest byte of each lane
    store_i16 = _stores(s.store_i16)  # the lowest two bytes of each lane

    def store(self, p: Ref) -> None:
        """Write all lanes."""
        self.pen.run(s.store_f32 if self.value.type == e.F32 else s.store_i32, p, self)

    def fma(self, factor: Vec, to: Vec) -> Vec:
        """self * factor + to, rounded once."""
        return self.pen.do(s.fma, self, factor, to)

    def lookup(self, table: Sequence[int]) -> Vec:
        """Each byte 0..15 replaced by table[byte]."""
        return self.pen.do(s.lookup(table), self)

    def less_than(self, other: int, yes: Vec, no: Vec) -> Vec:
        """Lane by lane, self < other ? yes : no (signed); yes and no are floats."""
        return self.pen.do(s.where_less_i32, self, self.pen.lanes(other), yes, no)


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
    """Where instructions are appended, and for which processor (LLVM's feature string)."""

    b: e.Builder
    target: str

    load = _loads(s.load_i32)  # 64 bytes as integers
    load_f32, load_f16, load_bf16 = _loads(s.load_f32), _loads(s.load_f16), _loads(s.load_bf16)
    load_u8, load_s8 = _loads(s.load_u8), _loads(s.load_s8)
    splat = _loads(s.splat_f32)  # all lanes the float at p
    isplat = _loads(s.splat_i32)  # all lanes the 32-bit integer at p

    @property
    def multiplies(self) -> str:
        """How the processor multiplies bytes: `Isa.dot`."""
        return isa.dot_of(self.target)

    @property
    def native_f16(self) -> bool:
        """Whether the processor converts half precision itself."""
        return isa.converts_f16(self.target)

    def run(self, what: Any, *operands: Vec | Ref | float) -> Any:
        """Append an operation of `simd.py`. Returns its LLVM value, or None."""
        values = [
            constant(x, kind) if isinstance(x, int | float) else x.value
            for x, kind in zip(operands, what.params, strict=True)
        ]
        return what.append(self.b, self.target, values)

    def do(self, what: Any, *operands: Vec | Ref | float) -> Vec:
        """Append an operation of `simd.py` that gives a vector."""
        return Vec(self, self.run(what, *operands))

    def ref(self, value: e.Value) -> Ref:
        return Ref(self, value)

    def vec(self, value: e.Value) -> Vec:
        return Vec(self, value)

    def lanes(self, value: Vec | int) -> Vec:
        """A vector as it is, or one whose lanes all hold an integer."""
        return Vec(self, e.const(value)) if isinstance(value, int) else value

    def number(self, value: float) -> Vec:
        """All lanes the float `value`."""
        return self.do(s.fill, value)

    def zeros(self) -> Vec:
        return self.do(s.zeros)

    def izeros(self) -> Vec:
        return self.do(s.zeros_i32)

    def dot(self, acc: Vec, u: Vec, signed: Vec) -> Vec:
        """acc plus 4 products of u's unsigned and signed's signed bytes, in each lane."""
        return self.do(s.dot, acc, u, signed)

    def dot_words(self, acc: Vec, u: Vec, v: Vec) -> Vec:
        """acc plus 2 products of the signed 16-bit halves of u's and v's lanes."""
        return self.do(s.dot_words, acc, u, v)

    def either(self, x: Vec, y: Vec, z: Vec) -> Vec:
        """x | y | z, at this place: LLVM does not move it."""
        return self.do(s.either, x, y, z)

    def dot_bf16(self, acc: Vec, u: Vec, v: Vec) -> Vec:
        """acc plus 2 products of the bfloat16 in u's and v's lanes, the high ones first."""
        return self.do(s.dot_bf16, acc, u, v)

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

        The same as 4 calls of `gather` in a sixth of the instructions: whole loads, and a transpose
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
        """4 vectors of 4 lanes as one of 16."""
        two, four = range(8), range(16)
        first = self._mixed(quarters[0], quarters[1], two)
        return self._mixed(first, self._mixed(quarters[2], quarters[3], two), four)

    def _mixed(self, x: e.Value, y: e.Value, lanes: Sequence[int]) -> e.Value:
        return self.b.shuffle_vector(x, y, e.vector(lanes))

    def pick(self, p: Ref, index: Vec, each: int) -> Vec:
        """4 bytes at p + each * index, lane by lane."""
        v = e.const(0)
        for lane in range(e.LANES):
            at = e.number(lane, e.i32)
            steps = self.b.zext(self.b.extract_element(index.value, at), e.i64)
            word = e.load(self.b, (p + Ref(self, steps) * each).value, e.i32)
            v = self.b.insert_element(v, word, at)
        return Vec(self, v)
