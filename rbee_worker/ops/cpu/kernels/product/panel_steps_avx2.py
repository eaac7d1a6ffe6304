"""Panels of `panels_avx2.py` times 4 tokens.

Each half of a vector is a register of AVX2, and there are 16: 8 hold the sums of 4 tokens, the
others weights, activations and products. LLVM would move loads up until it has no register left,
and add products to each other before it adds them to a sum; it does neither over a fence, of which
one stands after every few columns.

Sums of bytes are widened and, in K formats, scaled by one instruction. All integers are exact, and
floats are joined as in `steps.py` and `k_steps.py`: bitwise the same sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, Void, op
from rbee_worker.ops.cpu.kernels.product import k_steps
from rbee_worker.ops.cpu.kernels.product.panel_layout_avx2 import (
    BLOCKS,
    HALF,
    I8,
    I16,
    I32,
    TILE,
    VECTOR,
    Layout,
)
from rbee_worker.ops.cpu.shared.forms import BYTES, SCALE, SUM
from rbee_worker.ops.cpu.shared.held import HELD

_F32 = e.ir.VectorType(e.f32, 8)
Grid = list[list[e.Value]]  # [token][half]
LINE, LEAST = 64, 2  # bytes of a cache line; tiles that a panel is made for


def step(name: str, form: str) -> Any:
    """An operation `(sums, x, given, p, blocks, other, each)`: adds the panel at p times so many
    blocks of the 4 tokens at x to the vectors at `sums`, one for each token; given: what `begin`
    wrote. With each block, in each plane, the next `each` bytes from `other` on are prefetched."""
    layout = Layout(name, form)

    def write(
        b: e.Builder, sums: e.Value, x: e.Value, given: e.Value, p: e.Value, count: e.Value,
        other: e.Value, each: e.Value,
    ) -> None:  # fmt: skip
        work = _Work(b, layout, sums, x, given, p, other, each)
        if layout.whole:
            work.unit()
        else:
            work.blocks(count)

    return op(Void, Ptr, Ptr, Ptr, Ptr, Int, Ptr, Int)(write)


class _Work(NamedTuple):
    """One tile times one panel; addresses are those of `step`."""

    b: e.Builder
    layout: Layout
    sums: e.Value
    x: e.Value
    given: e.Value
    p: e.Value
    other: e.Value
    each: e.Value

    def blocks(self, count: e.Value) -> None:
        """Blocks of 32 columns, each with its own scale."""
        b, layout = self.b, self.layout

        def body(j: e.Value, _none: list[e.Value]) -> list[e.Value]:
            x, p = self._x(j), self._p(j)
            self._prefetch(j)
            if layout.words:
                wholes = self._words(p, self._given(j))
            else:
                ones = [e.const(1, I16)] * 2
                wholes = self._bytes(p, x, range(8), ones, self._given(j))
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
                totals, size = _grid(carried), 8 // layout.runs
                self._prefetch(b.add(j, e.number(BLOCKS * plane)))
                for n in range(layout.runs):
                    run, by = range(n * size, (n + 1) * size), layout.weights + VECTOR * n
                    given = e.at(b, self._given(j, plane), TILE * 4 * n)
                    totals = self._bytes(p, x, run, self._pair(p, by), given, totals)
                return [v for row in totals for v in row]

            return add

        found, begun = [], [e.const(0, I32)] * 2
        for n in range(len(planes)):
            if n and layout.biased:
                at = BLOCKS * layout.step + VECTOR
                begun = [e.load(b, e.at(b, self.p, at + HALF * h), I32, HALF) for h in range(2)]
            last = e.number(BLOCKS)
            found.append(_grid(e.loop(b, e.number(0), last, begun * TILE, body(n))))
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

    def _bytes(
        self, p: e.Value, x: e.Value, run: range, by: Sequence[e.Value], given: e.Value,
        totals: Grid | None = None,
    ) -> Grid:  # fmt: skip
        """totals + by * the products of the vectors in `run` with the bytes at x."""
        b = self.b
        for first in range(run.start, run.stop, self.layout.together):
            sums: Any = [[None, None] for _ in range(TILE)]
            if self.layout.encoding.offset:
                starts = (b.bitcast(self._splat(e.at(b, given, 4 * t)), I16) for t in range(TILE))
                sums = [[one, one] for one in starts]
            for k in range(first, min(first + self.layout.together, run.stop)):
                w = [e.load(b, e.at(b, p, VECTOR * k + HALF * h), I8, HALF) for h in range(2)]
                for t in range(TILE):
                    s = b.bitcast(self._splat(e.at(b, x, BYTES[self.layout.form] * t + 4 * k)), I8)
                    for h in range(2):
                        pairs = e.call(b, "llvm.x86.avx2.pmadd.ub.sw", I16, (w[h], s))
                        sums[t][h] = pairs if sums[t][h] is None else b.add(sums[t][h], pairs)
                sums = _fence(b, sums)
            widened = [
                [e.call(b, _MADDWD, I32, (sums[t][h], by[h])) for h in range(2)]
                for t in range(TILE)
            ]
            totals = widened if totals is None else _added(b, totals, widened)
        assert totals is not None
        return totals

    def _words(self, p: e.Value, given: e.Value) -> Grid:
        """The products of all 32 columns as 16-bit numbers."""
        b = self.b
        sums: Grid = [[e.const(0, I32)] * 2 for _ in range(TILE)]
        for k in range(8):
            for odd in range(2):
                w = self._pair(p, VECTOR * (2 * k + odd))
                for t in range(TILE):
                    s = self._splat(e.at(b, given, VECTOR * t + HALF * odd + 4 * k))
                    for h in range(2):
                        sums[t][h] = b.add(sums[t][h], _maddwd(b, s, w[h]))
                sums = _fence(b, sums)
        return sums

    def _prefetch(self, turn: e.Value) -> None:
        """As many lines as are due with the fewest tiles; with more, some are asked for again."""
        b, unit = self.b, HELD[self.layout.name]
        turns = LEAST * BLOCKS * len(k_steps.planes(self.layout.form))
        strip = unit.nbytes * BLOCKS * 32 // unit.columns
        at = b.add(self.other, b.mul(turn, self.each))
        for n in range(-(-strip // (turns * LINE))):
            e.prefetch(b, e.at(b, at, LINE * n))

    def _x(self, j: e.Value) -> e.Value:
        return self.b.add(self.x, self.b.mul(j, e.number(k_steps.block_step(self.layout.form))))

    def _given(self, j: e.Value, plane: int = 0) -> e.Value:
        step = self.layout.given_step
        at = e.at(self.b, self.given, BLOCKS * step * plane)
        return self.b.add(at, self.b.mul(j, e.number(step)))

    def _p(self, j: e.Value) -> e.Value:
        return self.b.add(self.p, self.b.mul(j, e.number(self.layout.step)))

    def _pair(self, p: e.Value, offset: int) -> list[e.Value]:
        """Both halves of a vector of 16-bit numbers."""
        return [e.load(self.b, e.at(self.b, p, offset + HALF * h), I16, HALF) for h in range(2)]

    def _floats(self, p: e.Value, offset: int) -> list[e.Value]:
        return [e.load(self.b, e.at(self.b, p, offset + HALF * h), _F32, HALF) for h in range(2)]

    def _sum(self, t: int, h: int) -> e.Value:
        return e.load(self.b, e.at(self.b, self.sums, VECTOR * t + HALF * h), _F32, HALF)

    def _splat(self, p: e.Value, kind: Any = I32) -> e.Value:
        one = e.load(self.b, p, kind.element, 4)
        undefined = e.ir.Constant(kind, e.ir.Undefined)
        first = self.b.insert_element(undefined, one, e.number(0, e.i32))
        return self.b.shuffle_vector(first, undefined, e.const(0, I32))


_MADDWD = "llvm.x86.avx2.pmadd.wd"


def _maddwd(b: e.Builder, x: e.Value, y: e.Value) -> e.Value:
    return e.call(b, _MADDWD, I32, (b.bitcast(x, I16), b.bitcast(y, I16)))


def _added(b: e.Builder, x: Grid, y: Grid) -> Grid:
    return [[b.add(u, v) for u, v in zip(*rows, strict=True)] for rows in zip(x, y, strict=True)]


def _fma(b: e.Builder, x: e.Value, y: e.Value, z: e.Value) -> e.Value:
    return e.call(b, "llvm.fma.v8f32", _F32, (x, y, z))


def _grid(values: Sequence[e.Value]) -> Grid:
    return [list(values[2 * t : 2 * t + 2]) for t in range(TILE)]


def _fence(b: e.Builder, sums: Grid) -> Grid:
    """The same sums. LLVM moves no load or store over this and joins no additions before it with
    those after it, so they stay in their registers; it is no instruction."""
    values = [v for row in sums for v in row]
    kinds = [v.type for v in values]
    places = [*(["=x"] * len(values)), *map(str, range(len(values))), "~{memory}"]
    kind = e.ir.FunctionType(e.ir.LiteralStructType(kinds), kinds)
    found = b.asm(kind, "", ",".join(places), values, True)
    return _grid([b.extract_value(found, n) for n in range(len(values))])
