"""Panels of `panels_avx2.py`: what they hold, and how they are unpacked.

A strip of 16 rows and 256 columns: 8 units of 32 columns (fewer at a row's end), or a unit of a K
format. A block of 32 columns has 8 vectors of bytes or 16 of 16-bit numbers; then its scale as
floats, or the scale of each half twice in the 16-bit halves of a lane; then minimums. A K format's
d follows after the last block, and where sums are `biased` what makes up for it.

Bytes of up to 127 are multiplied as such: sums of pairs of products, and of several pairs, fit into
16 bits (`together`). Where weights have an offset, the sums of a run of columns begin with -offset
times the activations: they may wrap on the way, but what they end with, sum (u - offset) x, fits.
Larger bytes, and activations of form i16, become 16-bit numbers, which take twice the instructions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.dots import SMALL
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, Void, op
from rbee_worker.ops.cpu.compiler.vec import Pen, Vec
from rbee_worker.ops.cpu.kernels.product import blocks, k_steps
from rbee_worker.ops.cpu.shared.forms import BYTES, LOW, UNITS
from rbee_worker.ops.cpu.shared.held import HELD

TILE = 4  # tokens
BLOCKS = k_steps.CELLS  # of a strip, at most
VECTOR, HALF = 64, 32  # bytes
I8, I16, I32 = (e.ir.VectorType(t, 256 // t.width) for t in (e.i8, e.i16, e.i32))  # half a vector


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
        return self.runs if self.whole else 1

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
        return BLOCKS * self.step + 2 * VECTOR

    @property
    def runs(self) -> int:
        """Runs of a block's columns that are summed apart."""
        return 2 if self.encoding.halves else 1

    @property
    def together(self) -> int:
        """Vectors of bytes whose sums of products fit into 16 bits."""
        run = 8 // self.runs
        return run if self.encoding.offset else min(32767 // (2 * self.encoding.top * 128), run)

    @property
    def biased(self) -> bool:
        """Whether sums of the low bytes of activations, which may all be -128, begin with 1 less:
        -offset * -128 in each of so many columns would be 32768."""
        return bool(self.form == "k16" and self.encoding.offset)

    @property
    def given_step(self) -> int:
        """Bytes of what `begin` writes for a tile and block, in each plane."""
        if self.words:
            return TILE * VECTOR
        return TILE * 4 * self.runs if self.encoding.offset else 0

    @property
    def given(self) -> int:
        """Bytes of what `begin` writes for a tile."""
        planes = 1 if self.words else len(k_steps.planes(self.form))
        return BLOCKS * self.given_step * planes


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

        def body(j: e.Value, scales: list[e.Value]) -> list[e.Value]:
            block = read(pen, unit if layout.whole else unit + pen.ref(j) * nbytes, pen.ref(j))
            at, kept = start + pen.ref(j) * layout.step, block.w
            if layout.words:
                kept = [half for w in kept for half in _widened(pen, w, layout.encoding.offset)]
            kept = [*kept, *_scales(pen, layout, block), *(block.m or ())[: layout.minimums]]
            for k, v in enumerate(kept):
                e.store(b, (at + VECTOR * k).value, v.value, VECTOR)
            low, high = block.scale or (pen.izeros(),) * 2
            return [(pen.vec(v) + low + high).value for v in scales]

        scales = e.loop(b, e.number(0), count, [e.const(0)] if layout.biased else [], body)
        if layout.whole:
            d = read(pen, unit, pen.ref(e.number(0))).unit
            assert d is not None
            e.store(b, (start + BLOCKS * layout.step).value, d.value, VECTOR)
        for v in scales:  # each is multiplied by two 16-bit sums that are 1 less
            v = b.shl(v, e.const(1))
            e.store(b, (start + (BLOCKS * layout.step + VECTOR)).value, v, VECTOR)

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
    return [_both(one, one) for one in block.scale[: layout.runs]]


def _both(low: Vec, high: Vec) -> Vec:
    """Two numbers of 16 bits in each lane."""
    return (low & 0xFFFF) | (high << 16)


def begin(name: str, form: str) -> Any:
    """An operation `(x, to, blocks)`: what the tile at x needs besides its prepared activations.

    For 16-bit products, the numbers of each block and token: those of even columns, then those of
    odd ones. For an offset, in each plane, block and run of columns, what the sums of each token
    begin with, two of 16 bits.
    """
    layout = Layout(name, form)
    step = k_steps.block_step(form)

    def words(b: e.Builder, x: e.Value, to: e.Value) -> None:
        eight, high = e.const(8, I16), e.const(-256, I16)
        for t in range(TILE):
            at = e.at(b, x, BYTES[form] * t)
            v = e.load(b, e.at(b, at, LOW if form == "i16" else 0), I16)
            even, odd = b.ashr(b.shl(v, eight), eight), b.ashr(v, eight)
            if form == "i16":
                u = e.load(b, at, I16)
                even, odd = b.add(even, b.shl(u, eight)), b.add(odd, b.and_(u, high))
            e.store(b, e.at(b, to, VECTOR * t), even, HALF)
            e.store(b, e.at(b, to, VECTOR * t + HALF), odd, HALF)

    def starts(b: e.Builder, x: e.Value, to: e.Value) -> None:
        offset = e.const(layout.encoding.offset, I8)
        for plane, place in enumerate(k_steps.planes(form)):
            less = e.const(-1 if plane and layout.biased else 0, I16)
            for t in range(TILE):
                v = e.load(b, e.at(b, x, BYTES[form] * t + place), I8)
                sums = e.call(b, "llvm.x86.avx2.pmadd.ub.sw", I16, (offset, v))
                for distance in (1, 2) if layout.runs == 2 else (1, 2, 4):
                    sums = b.add(sums, _moved(b, sums, distance))
                found = b.bitcast(b.sub(less, sums), I32)
                at = e.at(b, to, BLOCKS * layout.given_step * plane + 4 * t)
                for run in range(layout.runs):
                    one = b.extract_element(found, e.number(4 * run, e.i32))
                    e.store(b, e.at(b, at, TILE * 4 * run), one, 4)

    def write(b: e.Builder, x: e.Value, to: e.Value, count: e.Value) -> None:
        def body(j: e.Value, _none: list[e.Value]) -> list[e.Value]:
            make, size = words if layout.words else starts, e.number(layout.given_step)
            make(b, b.add(x, b.mul(j, e.number(step))), b.add(to, b.mul(j, size)))
            return []

        if layout.given:
            e.loop(b, e.number(0), count, [], body)

    return op(Void, Ptr, Ptr, Int)(write)


def _moved(b: e.Builder, v: e.Value, distance: int) -> e.Value:
    """The 32-bit lanes of v exchanged with those so many lanes away, a power of two."""
    lanes = b.bitcast(v, I32)
    order = e.vector([n ^ distance for n in range(8)])
    return b.bitcast(b.shuffle_vector(lanes, lanes, order), I16)
