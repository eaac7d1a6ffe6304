"""Panels of `panels.py`: a unit of 16 rows of a K format, unpacked, and its product with 8 tokens.

A panel holds, for each block of 32 columns: 8 vectors of bytes, a vector of scales, those of both
halves in the 16-bit halves of a lane, and two of minimums if the format has them; then d. Integers
are exact in any order, and floats are joined as in `k_steps.py`, so sums are bitwise the same.

Scaling the sums A and B of both halves by 32-bit multiplications would take a fourth of the time of
the dot products, on the same ports of the processor. So they become the two 16-bit numbers of a
lane, which one instruction multiplies by both scales and adds up. In most formats they always fit.
In Q6_K, |A| <= 32 * 128 * 16 = 2^16 may not, but hardly ever exceeds 2^15: A + 2^15 and B + 2^15 of
all blocks and tokens are joined by "or", and if that has a bit beyond 16, the unit is computed
again with 32-bit multiplications.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.simd import Ptr, Void, op
from rbee_worker.ops.cpu.compiler.vec import Pen, Ref, Vec
from rbee_worker.ops.cpu.kernels.product import blocks, k_steps
from rbee_worker.ops.cpu.kernels.product.steps import dots
from rbee_worker.ops.cpu.shared.forms import BYTES, TOKENS

VECTOR = 64  # bytes
WEIGHTS = 8 * VECTOR  # of a block
HALF = 1 << 15
BOTH = (HALF << 16 | HALF) - (1 << 32)
STARTS = 2 * 4 * TOKENS  # bytes of a block's starts


class Panel(NamedTuple):
    """The layout of a panel."""

    encoding: blocks.Encoding

    @property
    def minimums(self) -> int:
        """Vectors of minimums in a block."""
        return 2 if self.encoding.mins else 0

    @property
    def step(self) -> int:
        """Bytes from a block to the next one."""
        return WEIGHTS + VECTOR * (1 + self.minimums)

    @property
    def nbytes(self) -> int:
        """Bytes of a panel."""
        return k_steps.CELLS * self.step + VECTOR

    @property
    def fits(self) -> bool:
        """Whether the sum of 16 products is always less than 2^15."""
        return 16 * 128 * self.encoding.most < HALF

    def read(self, pen: Pen, p: Ref, j: Ref) -> blocks.Block:
        """Block j, as those of `blocks.py`."""
        at = p + j * self.step
        w = [pen.load(at + VECTOR * k) for k in range(8)]
        scale, d = pen.load(at + WEIGHTS), pen.load_f32(p + k_steps.CELLS * self.step)
        both, m = ((scale << 16).sar(16), scale.sar(16)), None
        if self.minimums:
            first, second = (at + (WEIGHTS + VECTOR * n) for n in (1, 2))
            m = pen.load_f32(first), pen.load_f32(second)
        return blocks.Block(w, (d, d), m, unit=d, scale=both)


def panel_of(name: str) -> Panel:
    """The layout for held format `name`, one with halves."""
    encoding = blocks.BLOCKS[name][1]
    assert encoding.halves
    return Panel(encoding)


def unpack(name: str) -> Any:
    """An operation `(p, to)` that unpacks the unit at p into the panel at `to`."""
    read, panel = blocks.BLOCKS[name][0], panel_of(name)

    def write(b: e.Builder, target: str, p: e.Value, to: e.Value) -> None:
        pen = Pen(b, target)
        unit, start = pen.ref(p), pen.ref(to)

        def body(j: e.Value, _none: list[e.Value]) -> list[e.Value]:
            block, at = read(pen, unit, pen.ref(j)), start + pen.ref(j) * panel.step
            assert block.scale is not None
            first, second = block.scale
            kept = [*block.w, (first & 0xFFFF) | (second << 16), *(block.m or ())]
            for k, v in enumerate(kept):
                e.store(b, (at + VECTOR * k).value, v.value, VECTOR)
            return []

        e.loop(b, e.number(0), e.number(k_steps.CELLS), [], body)
        d = read(pen, unit, pen.ref(e.number(0))).unit
        assert d is not None
        e.store(b, (start + k_steps.CELLS * panel.step).value, d.value, VECTOR)

    return op(Void, Ptr, Ptr, target=True)(write)


def starts_bytes(form: str) -> int:
    """Bytes of the starts of a unit of 8 tokens."""
    return _planes(form) * k_steps.CELLS * STARTS


def starts(name: str, form: str) -> Any:
    """An operation `(x, to)`: what the sums of the 8 tokens at x begin with, a plane after the
    other, for every block and half of it 8 integers. They are the same for all rows."""
    panel = panel_of(name)

    def write(b: e.Builder, x: e.Value, to: e.Value) -> None:
        def body(j: e.Value, _none: list[e.Value]) -> list[e.Value]:
            block = b.add(x, b.mul(j, e.number(k_steps.block_step(form))))
            put = b.add(to, b.mul(j, e.number(STARTS)))
            for n, less in enumerate((k_steps.LESS_HIGH, k_steps.LESS_LOW)[: _planes(form)]):
                for k in range(2 * TOKENS):
                    half, t = divmod(k, TOKENS)
                    v = e.load(b, e.at(b, block, BYTES[form] * t + less[half]), e.i32, 4)
                    v = b.add(_times(b, v, panel.encoding.offset), e.number(HALF, e.i32))
                    e.store(b, e.at(b, put, n * k_steps.CELLS * STARTS + 4 * k), v, 4)
            return []

        e.loop(b, e.number(0), e.number(k_steps.CELLS), [], body)

    return op(Void, Ptr, Ptr)(write)


def _times(b: e.Builder, less: e.Value, offset: int) -> e.Value:
    """-offset * sum x of -32 * sum x."""
    if offset == 0:
        return e.number(0, e.i32)
    by = offset.bit_length() - (32).bit_length()
    shift = e.number(abs(by), e.i32)
    return b.shl(less, shift) if by > 0 else b.ashr(less, shift) if by else less


def step(name: str, form: str) -> Any:
    """An operation `(sums, x, begin, p)`: adds the panel at p times a unit of the 8 tokens at x to
    the vectors at `sums`, one for each token; begin: what `starts` made."""
    panel = panel_of(name)

    def write(
        b: e.Builder, target: str, sums: e.Value, x: e.Value, begin: e.Value, p: e.Value
    ) -> None:
        pen = Pen(b, target)
        at, given, unit = pen.ref(sums), pen.ref(x), pen.ref(p)
        totals = [
            _totals(pen, panel, given, pen.ref(begin), unit, form, n) for n in range(_planes(form))
        ]
        acc = [pen.load_f32(at + VECTOR * t) for t in range(TOKENS)]
        d = pen.load_f32(unit + k_steps.CELLS * panel.step)
        acc = k_steps.settle(pen, acc, totals, d, given, form)
        if panel.encoding.mins:
            acc = k_steps.add_all_minimums(
                pen, acc, given, [unit], panel.read, panel.encoding, form
            )
        for t, v in enumerate(acc):
            e.store(b, (at + VECTOR * t).value, v.value, VECTOR)

    return op(Void, Ptr, Ptr, Ptr, Ptr, target=True)(write)


def _planes(form: str) -> int:
    return len(k_steps.planes(form))


def _totals(
    pen: Pen, panel: Panel, x: Ref, begin: Ref, unit: Ref, form: str, plane: int
) -> list[Vec]:
    """H (plane 0) or L (plane 1) of each token."""
    begin += plane * k_steps.CELLS * STARTS

    def one_by_one(j: e.Value, carried: list[e.Value]) -> list[e.Value]:
        block = pen.ref(j)
        at, found = x + block * k_steps.block_step(form), panel.read(pen, unit, block)
        acc = [pen.vec(v) for v in carried]
        acc = k_steps.add_block(pen, acc, at, found, panel.encoding, form, plane)
        return [v.value for v in acc]

    def in_pairs(j: e.Value, carried: list[e.Value]) -> list[e.Value]:
        block, acc = pen.ref(j), [pen.vec(v) for v in carried]
        at = x + block * k_steps.block_step(form) + k_steps.planes(form)[plane]
        acc = _add_pairs(pen, panel, acc, at, begin + block * STARTS, unit, block, BYTES[form])
        return [v.value for v in acc]

    def all_blocks(body: Any, count: int) -> list[e.Value]:
        nothing = [e.const(0)] * count
        return e.loop(pen.b, e.number(0), e.number(k_steps.CELLS), nothing, body)

    if panel.fits:
        return [pen.vec(v) for v in all_blocks(in_pairs, TOKENS)]
    *found, bits = all_blocks(in_pairs, TOKENS + 1)
    b = pen.b
    beyond = b.bitcast(b.icmp_unsigned(">", bits, e.const(0xFFFF)), e.i16)
    before = b.block
    with b.if_then(b.icmp_unsigned("!=", beyond, e.number(0, e.i16)), likely=False):
        again = all_blocks(one_by_one, TOKENS)
        after = b.block
    out = []
    for fast, slow in zip(found, again, strict=True):
        either = b.phi(e.I32)
        either.add_incoming(fast, before)
        either.add_incoming(slow, after)
        out.append(pen.vec(either))
    return out


def _add_pairs(
    pen: Pen, panel: Panel, acc: list[Vec], given: Ref, begin: Ref, unit: Ref, j: Ref, size: int
) -> list[Vec]:
    """acc plus block j, both halves at once. acc: 8 totals and, where sums may not fit, the bits of
    all biased sums. given: the tokens' bytes, `size` bytes apart."""
    totals, bits = acc[:TOKENS], acc[TOKENS:]
    block, scales = panel.read(pen, unit, j), pen.load(unit + j * panel.step + WEIGHTS)
    xs = [given + size * t for t in range(TOKENS)]
    low, high = ([pen.isplat(begin + (32 * n + 4 * t)) for t in range(TOKENS)] for n in (0, 1))
    low = dots(pen, low, block, 0, xs, range(4))
    high = dots(pen, high, block, 0, xs, range(4, 7))
    out = []
    # What ends a token's sums stands between dot products of others: there it takes no time.
    for a, b, x, total in zip(low, high, xs, totals, strict=True):
        b = pen.dot(b, block.w[7], pen.isplat(x + 28))
        bits = [pen.either(one, a, b) for one in bits]
        out.append(pen.dot_words(total, ((b << 16) | a) ^ BOTH, scales))
    return out + bits
