"""Panels of `panels_avx2.py`: a strip of 16 rows, unpacked, and its product with 4 tokens.

A strip is 256 columns: 8 units of 32 columns (fewer at a row's end), or a unit of a K format. Each
half of a vector is a register of AVX2, and there are 16: 8 hold the sums of 4 tokens, the others
weights, activations and products. LLVM would move loads up until it has no register left; it moves
none over a fence, of which one stands after every few columns.

Bytes of up to 127 are multiplied as such: sums of pairs of products, and of several pairs, fit into
16 bits (`together`). Then they are widened and, in K formats, scaled by one instruction. Larger
bytes, and activations of form i16, become 16-bit numbers, which take twice the instructions. All
integers are exact, and floats are joined as in `steps.py` and `k_steps.py`: bitwise the same sums.

In a panel a block of 32 columns has 8 vectors of bytes or 16 of 16-bit numbers; then its scale as
floats, or the scale of each half twice in the 16-bit halves of a lane, and where weights have an
offset, both scales times -offset; then minimums. A K format's d follows after the last block.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.dots import SMALL
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, Void, op
from rbee_worker.ops.cpu.compiler.vec import Pen, Vec
from rbee_worker.ops.cpu.kernels.product import blocks, k_steps, steps
from rbee_worker.ops.cpu.shared.forms import BYTES, CELL, LOW, SCALE, SUM, UNITS
from rbee_worker.ops.cpu.shared.held import HELD

TILE = 4  # tokens
BLOCKS = k_steps.CELLS  # of a strip, at most
VECTOR, HALF = 64, 32  # bytes
_I32, _F32 = e.ir.VectorType(e.i32, 8), e.ir.VectorType(e.f32, 8)
_I16, _I8 = e.ir.VectorType(e.i16, 16), e.ir.VectorType(e.i8, 32)
Grid = list[list[e.Value]]  # [token][half]


class Layout(NamedTuple):
    """What a panel holds for a held format and a form of activations."""

    name: str
    form: str

    @property
    def encoding(self) -> blocks.Encoding:
        return blocks.BLOCKS[self.name][1]

    @property
    def whole(self) -> bool:
        """Whether a strip is one unit, of a K format."""
        return self.form in UNITS

    @property
    def words(self) -> bool:
        """Whether weights and activations are 16-bit numbers."""
        return self.form == "i16" or self.encoding.top > SMALL

    @property
    def weights(self) -> int:
        """Bytes of a block's weights."""
        return (16 if self.words else 8) * VECTOR

    @property
    def scales(self) -> int:
        """Vectors of a block's scales."""
        if not self.whole:
            return 1
        return (2 if self.encoding.halves else 1) + (1 if self.encoding.offset else 0)

    @property
    def minimums(self) -> int:
        """Vectors of a block's minimums."""
        return (2 if self.whole and self.encoding.halves else 1) if self.encoding.mins else 0

    @property
    def step(self) -> int:
        """Bytes from a block to the next one."""
        return self.weights + VECTOR * (self.scales + self.minimums)

    @property
    def nbytes(self) -> int:
        """Bytes of a panel."""
        return BLOCKS * self.step + VECTOR

    @property
    def together(self) -> int:
        """Vectors of bytes whose sums of products fit into 16 bits."""
        return min(32767 // (2 * self.encoding.top * 128), 4 if self.encoding.halves else 8)

    @property
    def plane(self) -> int:
        """Bytes of a plane of what `begin` writes for a tile."""
        return BLOCKS * TILE * 4

    @property
    def given(self) -> int:
        """Bytes of what `begin` writes for a tile."""
        if self.words:
            return BLOCKS * TILE * VECTOR
        pairs = self.whole and self.encoding.offset
        return self.plane * len(k_steps.planes(self.form)) if pairs else 0


def suits(name: str, form: str) -> bool:
    """Whether there are panels for a held format and a form."""
    if HELD[name].is_float or form not in ("i8", "i16", *UNITS):
        return False
    return form not in UNITS or blocks.BLOCKS[name][1].top <= SMALL


def unpack(name: str, form: str) -> Any:
    """An operation `(p, to, blocks)` that unpacks so many blocks at p into the panel at `to`."""
    read, layout, nbytes = blocks.BLOCKS[name][0], Layout(name, form), HELD[name].nbytes

    def write(b: e.Builder, target: str, p: e.Value, to: e.Value, count: e.Value) -> None:
        pen = Pen(b, target)
        unit, start = pen.ref(p), pen.ref(to)

        def body(j: e.Value, _none: list[e.Value]) -> list[e.Value]:
            block = read(pen, unit if layout.whole else unit + pen.ref(j) * nbytes, pen.ref(j))
            at, kept = start + pen.ref(j) * layout.step, block.w
            if layout.words:
                kept = [half for w in kept for half in _widened(pen, w, layout.encoding.offset)]
            kept = [*kept, *_scales(pen, layout, block), *(block.m or ())[: layout.minimums]]
            for k, v in enumerate(kept):
                e.store(b, (at + VECTOR * k).value, v.value, VECTOR)
            return []

        e.loop(b, e.number(0), count, [], body)
        if layout.whole:
            d = read(pen, unit, pen.ref(e.number(0))).unit
            assert d is not None
            e.store(b, (start + BLOCKS * layout.step).value, d.value, VECTOR)

    return op(Void, Ptr, Ptr, Int, target=True)(write)


def _widened(pen: Pen, w: Vec, offset: int) -> tuple[Vec, Vec]:
    """The even and the odd bytes of w less the offset, as 16-bit numbers."""
    words = e.ir.VectorType(e.i16, 32)
    less = e.const(offset, words)

    def lowered(v: Vec) -> Vec:
        return pen.vec(pen.b.bitcast(pen.b.sub(pen.b.bitcast(v.value, words), less), e.I32))

    return lowered(w & 0x00FF00FF), lowered((w >> 8) & 0x00FF00FF)


def _scales(pen: Pen, layout: Layout, block: blocks.Block) -> list[Vec]:
    if not layout.whole:
        return [block.d[0]]
    assert block.scale is not None
    scale = block.scale if layout.encoding.halves else block.scale[:1]
    found = [_both(one, one) for one in scale]
    if layout.encoding.offset:
        by = layout.encoding.offset.bit_length() - 1
        found.append(_both(*(pen.izeros() - (one << by) for one in scale)))
    return found


def _both(low: Vec, high: Vec) -> Vec:
    """Two numbers of 16 bits in each lane."""
    return (low & 0xFFFF) | (high << 16)


def begin(name: str, form: str) -> Any:
    """An operation `(x, to, blocks)`: what the tile at x needs besides its prepared activations.

    For 16-bit products, the numbers of each block and token: those of even columns, then those of
    odd ones. For an offset in K formats, in each plane, block and token, the sums of both halves.
    """
    layout = Layout(name, form)
    step = k_steps.block_step(form)

    def words(b: e.Builder, x: e.Value, to: e.Value) -> None:
        eight, high = e.const(8, _I16), e.const(-256, _I16)
        for t in range(TILE):
            at = e.at(b, x, BYTES[form] * t)
            v = e.load(b, e.at(b, at, LOW if form == "i16" else 0), _I16)
            even, odd = b.ashr(b.shl(v, eight), eight), b.ashr(v, eight)
            if form == "i16":
                u = e.load(b, at, _I16)
                even, odd = b.add(even, b.shl(u, eight)), b.add(odd, b.and_(u, high))
            e.store(b, e.at(b, to, VECTOR * t), even, HALF)
            e.store(b, e.at(b, to, VECTOR * t + HALF), odd, HALF)

    def pairs(b: e.Builder, x: e.Value, to: e.Value) -> None:
        less = (k_steps.LESS_HIGH, k_steps.LESS_LOW)[: len(k_steps.planes(form))]
        for plane, places in enumerate(less):
            for t in range(TILE):
                low, high = (
                    b.ashr(
                        b.neg(e.load(b, e.at(b, x, BYTES[form] * t + place), e.i32, 4)),
                        e.number(5, e.i32),
                    )
                    for place in places
                )
                both = b.or_(
                    b.and_(low, e.number(0xFFFF, e.i32)), b.shl(high, e.number(16, e.i32))
                )
                e.store(b, e.at(b, to, layout.plane * plane + 4 * t), both, 4)

    def write(b: e.Builder, x: e.Value, to: e.Value, count: e.Value) -> None:
        def body(j: e.Value, _none: list[e.Value]) -> list[e.Value]:
            make, size = (words, TILE * VECTOR) if layout.words else (pairs, TILE * 4)
            make(b, b.add(x, b.mul(j, e.number(step))), b.add(to, b.mul(j, e.number(size))))
            return []

        if layout.given:
            e.loop(b, e.number(0), count, [], body)

    return op(Void, Ptr, Ptr, Int)(write)


def step(name: str, form: str) -> Any:
    """An operation `(sums, x, given, p, blocks)`: adds the panel at p times so many blocks of the
    4 tokens at x to the vectors at `sums`, one for each token; given: what `begin` wrote."""
    layout = Layout(name, form)

    def write(
        b: e.Builder, sums: e.Value, x: e.Value, given: e.Value, p: e.Value, count: e.Value
    ) -> None:
        work = _Work(b, layout, sums, x, given, p)
        if layout.whole:
            work.unit()
        else:
            work.blocks(count)

    return op(Void, Ptr, Ptr, Ptr, Ptr, Int)(write)


class _Work(NamedTuple):
    """One tile times one panel; addresses are those of `step`."""

    b: e.Builder
    layout: Layout
    sums: e.Value
    x: e.Value
    given: e.Value
    p: e.Value

    def blocks(self, count: e.Value) -> None:
        """Blocks of 32 columns, each with its own scale."""
        b, layout = self.b, self.layout

        def body(j: e.Value, _none: list[e.Value]) -> list[e.Value]:
            x, p = self._x(j), self._p(j)
            if layout.words:
                given = b.add(self.given, b.mul(j, e.number(TILE * VECTOR)))
                wholes = self._words(p, given)
            else:
                ones = [e.const(1, _I16)] * 2
                wholes = self._bytes(p, x, range(8), ones, self._starts(x))
            self._settle(x, p, wholes)
            return []

        e.loop(b, e.number(0), count, [], body)

    def unit(self) -> None:
        """A unit of a K format: integers up to its end."""
        b, layout = self.b, self.layout
        planes = k_steps.planes(layout.form)

        def body(plane: int) -> Any:
            def add(j: e.Value, carried: list[e.Value]) -> list[e.Value]:
                x, p = e.at(b, self._x(j), planes[plane]), self._p(j)
                totals, halves = _grid(carried), layout.encoding.halves
                for n, run in enumerate((range(4), range(4, 8)) if halves else (range(8),)):
                    totals = self._bytes(p, x, run, self._pair(p, layout.weights + VECTOR * n),
                                         totals)
                if layout.encoding.offset:
                    at = b.add(self.given, b.mul(j, e.number(TILE * 4)))
                    offsets = self._pair(p, layout.weights + VECTOR * (layout.scales - 1))
                    for t in range(TILE):
                        both = self._splat(e.at(b, at, layout.plane * plane + 4 * t))
                        for h in range(2):
                            totals[t][h] = b.add(totals[t][h], _maddwd(b, both, offsets[h]))
                return [v for row in totals for v in row]

            return add

        nothing, last = [e.const(0, _I32)] * (2 * TILE), e.number(BLOCKS)
        found = [
            _grid(e.loop(b, e.number(0), last, nothing, body(n))) for n in range(len(planes))
        ]
        self._settle_unit(found)

    def _settle_unit(self, found: Sequence[Grid]) -> None:
        """As `k_steps.settle` and `k_steps.add_all_minimums`."""
        b, layout = self.b, self.layout
        d = self._floats(self.p, BLOCKS * layout.step)
        out = []
        for t in range(TILE):
            scale = self._splat(e.at(b, self.x, BYTES[layout.form] * t + SCALE), _F32)
            for h in range(2):
                joined, *low = (b.sitofp(grid[t][h], _F32) for grid in found)
                if low:
                    joined = _fma(b, joined, e.const(256.0, _F32), low[0])
                out.append(_fma(b, b.fmul(d[h], scale), joined, self._sum(t, h)))
        if layout.minimums:
            places = k_steps.SUMS if layout.encoding.halves else (SUM,)

            def body(j: e.Value, carried: list[e.Value]) -> list[e.Value]:
                x, p, sums = self._x(j), self._p(j), list(carried)
                for n, place in enumerate(places):
                    m = self._floats(p, layout.weights + VECTOR * (layout.scales + n))
                    for t in range(TILE):
                        by = self._splat(e.at(b, x, BYTES[layout.form] * t + place), _F32)
                        for h in range(2):
                            sums[2 * t + h] = _fma(b, m[h], by, sums[2 * t + h])
                return sums

            out = e.loop(b, e.number(0), e.number(BLOCKS), out, body)
        for n, v in enumerate(out):
            e.store(b, e.at(b, self.sums, HALF * n), v, HALF)

    def _settle(self, x: e.Value, p: e.Value, wholes: Grid) -> None:
        """As the end of a block in `steps.py`."""
        b, layout = self.b, self.layout
        d = self._floats(p, layout.weights)
        m = self._floats(p, layout.weights + VECTOR) if layout.minimums else None
        for t in range(TILE):
            at = e.at(b, x, BYTES[layout.form] * t)
            scale = self._splat(e.at(b, at, SCALE), _F32)
            for h in range(2):
                whole = b.sitofp(wholes[t][h], _F32)
                total = _fma(b, b.fmul(d[h], scale), whole, self._sum(t, h))
                if m is not None:
                    total = _fma(b, m[h], self._splat(e.at(b, at, SUM), _F32), total)
                e.store(b, e.at(b, self.sums, VECTOR * t + HALF * h), total, HALF)

    def _starts(self, x: e.Value) -> Grid | None:
        """What sums of a block begin with, -offset * sum x; None: zero."""
        offset = self.layout.encoding.offset
        if not offset:
            return None
        out = []
        for t in range(TILE):
            less = self._splat(e.at(self.b, x, BYTES[self.layout.form] * t + steps.LESS8))
            out.append([self.b.shl(less, e.const(offset.bit_length() - 4, _I32))] * 2)
        return out

    def _bytes(
        self, p: e.Value, x: e.Value, run: range, by: Sequence[e.Value], totals: Grid | None
    ) -> Grid:
        """totals + by * the products of the vectors in `run` with the bytes at x."""
        b = self.b
        for first in range(run.start, run.stop, self.layout.together):
            sums: Any = [[None, None] for _ in range(TILE)]
            for k in range(first, min(first + self.layout.together, run.stop)):
                w = [e.load(b, e.at(b, p, VECTOR * k + HALF * h), _I8, HALF) for h in range(2)]
                for t in range(TILE):
                    s = b.bitcast(self._splat(e.at(b, x, BYTES[self.layout.form] * t + 4 * k)), _I8)
                    for h in range(2):
                        pairs = e.call(b, "llvm.x86.avx2.pmadd.ub.sw", _I16, (w[h], s))
                        sums[t][h] = pairs if sums[t][h] is None else b.add(sums[t][h], pairs)
                _fence(b)
            widened = [
                [e.call(b, _MADDWD, _I32, (sums[t][h], by[h])) for h in range(2)]
                for t in range(TILE)
            ]
            totals = widened if totals is None else _added(b, totals, widened)
        assert totals is not None
        return totals

    def _words(self, p: e.Value, given: e.Value) -> Grid:
        """The products of all 32 columns as 16-bit numbers."""
        b = self.b
        sums: Any = [[e.const(0, _I32)] * 2 for _ in range(TILE)]
        for k in range(8):
            for odd in range(2):
                w = self._pair(p, VECTOR * (2 * k + odd))
                for t in range(TILE):
                    s = self._splat(e.at(b, given, VECTOR * t + HALF * odd + 4 * k))
                    for h in range(2):
                        sums[t][h] = b.add(sums[t][h], _maddwd(b, s, w[h]))
                _fence(b)
        return sums

    def _x(self, j: e.Value) -> e.Value:
        return self.b.add(self.x, self.b.mul(j, e.number(k_steps.block_step(self.layout.form))))

    def _p(self, j: e.Value) -> e.Value:
        return self.b.add(self.p, self.b.mul(j, e.number(self.layout.step)))

    def _pair(self, p: e.Value, offset: int) -> list[e.Value]:
        """Both halves of a vector of 16-bit numbers."""
        return [e.load(self.b, e.at(self.b, p, offset + HALF * h), _I16, HALF) for h in range(2)]

    def _floats(self, p: e.Value, offset: int) -> list[e.Value]:
        return [e.load(self.b, e.at(self.b, p, offset + HALF * h), _F32, HALF) for h in range(2)]

    def _sum(self, t: int, h: int) -> e.Value:
        return e.load(self.b, e.at(self.b, self.sums, VECTOR * t + HALF * h), _F32, HALF)

    def _splat(self, p: e.Value, kind: Any = _I32) -> e.Value:
        one = e.load(self.b, p, kind.element, 4)
        undefined = e.ir.Constant(kind, e.ir.Undefined)
        first = self.b.insert_element(undefined, one, e.number(0, e.i32))
        return self.b.shuffle_vector(first, undefined, e.const(0, _I32))


_MADDWD = "llvm.x86.avx2.pmadd.wd"


def _maddwd(b: e.Builder, x: e.Value, y: e.Value) -> e.Value:
    return e.call(b, _MADDWD, _I32, (b.bitcast(x, _I16), b.bitcast(y, _I16)))


def _added(b: e.Builder, x: Grid, y: Grid) -> Grid:
    return [[b.add(u, v) for u, v in zip(*rows, strict=True)] for rows in zip(x, y, strict=True)]


def _fma(b: e.Builder, x: e.Value, y: e.Value, z: e.Value) -> e.Value:
    return e.call(b, "llvm.fma.v8f32", _F32, (x, y, z))


def _grid(values: Sequence[e.Value]) -> Grid:
    return [list(values[2 * t : 2 * t + 2]) for t in range(TILE)]


def _fence(b: e.Builder) -> None:
    """LLVM moves no load or store over this; it is no instruction."""
    b.asm(e.ir.FunctionType(e.void, []), "", "~{memory}", [], True)
