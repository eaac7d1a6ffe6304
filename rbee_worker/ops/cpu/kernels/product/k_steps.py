"""One unit of 256 columns times T tokens, for 16 rows: the inner step of products of K formats.

The scales of such a unit's blocks are integers, and so are its activations (forms k8 and k16),
which have one scale for all 256 columns. A number is q = 256 u + v with bytes u and v for k16, and
q = u for k8. H = sum over blocks of scale * sum w u, and L, the same of v, are exact in 32 bits in
any order of addition (|H|, |L| <= 128 * 127 * 128 * 256 < 2^31). A unit then adds
(d * scale of x) * (256 H + L), rounded once, and its minimums block by block. AMX tiles
(`amx_units.py`) compute the same integers in another way.

A prepared block of 32 columns: 32 bytes u; f32 scale; i32 -32 sum u of columns 0-15; f32 scale *
sum q; i32 -32 sum u of columns 16-31; i32 -32 sum v of 0-15; f32 scale * sum q of 0-15 and 16-31;
i32 -32 sum v of 16-31; k16 then 32 bytes v.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, op
from rbee_worker.ops.cpu.compiler.vec import Pen, Ref, Vec
from rbee_worker.ops.cpu.kernels.product.blocks import BLOCKS, Block, Encoding
from rbee_worker.ops.cpu.kernels.product.steps import dots, prefetch, raises, sums_type
from rbee_worker.ops.cpu.shared.forms import BYTES, CELL, LOW, SCALE, SUM, TOKENS, UNIT
from rbee_worker.ops.cpu.shared.held import HELD

CELLS = UNIT // CELL
Unpack = Callable[[Pen, Ref, Ref], Block]  # reads block j of the unit at p, as in `blocks.py`
LESS_HIGH, LESS_LOW, SUMS = (36, 44), (48, 60), (52, 56)


def block_step(form: str) -> int:
    """Bytes from a block of a token to the next one."""
    return TOKENS * BYTES[form]


def planes(form: str) -> tuple[int, ...]:
    """Offsets of a token's bytes in a block, the most significant byte of each number first."""
    return (0, LOW) if form == "k16" else (0,)


def step(tokens: int, name: str, form: str) -> Any:
    """The operation `(sums, x, p, j, other) -> sums` for held format `name`: the unit at p; j is 0.
    Prefetches the unit at `other`."""
    kind = sums_type(tokens)

    def write(
        b: e.Builder, target: str, sums: e.Value, x: e.Value, p: e.Value, j: e.Value, other: e.Value
    ) -> list[e.Value]:
        pen = Pen(b, target)
        acc = [pen.vec(b.extract_value(sums, t)) for t in range(tokens)]
        (acc,) = _units(pen, [acc], pen.ref(x), [pen.ref(p)], [pen.ref(other)], name, form)
        return [v.value for v in acc]

    return op(kind, kind, Ptr, Ptr, Int, Ptr, target=True)(write)


def wide(groups: int, name: str, form: str) -> Any:
    """`step` for one token and `groups` groups of rows: `(sums, x, p, group_step, j, far) -> sums`,
    where group g's unit is at p + g * group_step. Prefetches the unit `far` bytes after each."""
    kind = sums_type(groups)

    def write(
        b: e.Builder, target: str, sums: e.Value, x: e.Value, p: e.Value, group_step: e.Value,
        j: e.Value, far: e.Value,
    ) -> list[e.Value]:  # fmt: skip
        pen = Pen(b, target)
        at = [pen.ref(p)]
        for _ in range(groups - 1):
            at.append(at[-1] + pen.ref(group_step))
        acc = [[pen.vec(b.extract_value(sums, g))] for g in range(groups)]
        acc = _units(pen, acc, pen.ref(x), at, [p + pen.ref(far) for p in at], name, form)
        return [v.value for (v,) in acc]

    return op(kind, kind, Ptr, Ptr, Int, Int, Int, target=True)(write)


def _units(
    pen: Pen,
    sums: list[list[Vec]],
    x: Ref,
    units: list[Ref],
    others: list[Ref],
    name: str,
    form: str,
) -> list[list[Vec]]:
    """Add units: sums [group][token]; the unit of each group; `others`, what to prefetch."""
    unpack, encoding = BLOCKS[name]
    nbytes, tokens = HELD[name].nbytes // CELLS, len(sums[0])
    # each group's part of a plane's totals
    runs = [slice(g * tokens, (g + 1) * tokens) for g in range(len(sums))]
    count = len(sums) * tokens

    def body(j: e.Value, carried: list[e.Value]) -> list[e.Value]:
        block = pen.ref(j)
        for other in others:
            prefetch(pen, other + block * nbytes, nbytes)
        totals = _planes([pen.vec(v) for v in carried], count)
        for run, unit in zip(runs, units, strict=True):
            found, at = unpack(pen, unit, block), x + block * block_step(form)
            for n, total in enumerate(totals):
                total[run] = add_block(pen, total[run], at, found, encoding, form, n)
        return [v.value for total in totals for v in total]

    zero, last = e.number(0), e.number(CELLS)
    nothing = [e.const(0)] * (count * len(planes(form)))
    totals = _planes([pen.vec(v) for v in e.loop(pen.b, zero, last, nothing, body)], count)
    settled = []
    for run, acc, unit in zip(runs, sums, units, strict=True):
        d = unpack(pen, unit, pen.ref(zero)).unit
        assert d is not None
        settled += settle(pen, acc, [t[run] for t in totals], d, x, form)
    if encoding.mins:
        settled = add_all_minimums(pen, settled, x, units, unpack, encoding, form)
    return [settled[run] for run in runs]


def _planes(values: list[Vec], count: int) -> list[list[Vec]]:
    return [values[n : n + count] for n in range(0, len(values), count)]


def settle(
    pen: Pen, sums: list[Vec], totals: list[list[Vec]], d: Vec, x: Ref, form: str
) -> list[Vec]:
    """Sums plus (d * scale of x) * (the totals of all planes, joined), for the tokens from x on."""
    out = []
    for t, (total, *parts) in enumerate(zip(sums, *totals, strict=True)):
        scale = pen.splat(x + (BYTES[form] * t + SCALE))
        out.append((d * scale).fma(joined(pen, parts), total))
    return out


def joined(pen: Pen, parts: Sequence[Vec]) -> Vec:
    """H, or 256 H + L, as a float."""
    high, *low = (part.to_f32() for part in parts)
    return high.fma(pen.number(256.0), low[0]) if low else high


def add_all_minimums(
    pen: Pen, sums: list[Vec], x: Ref, units: list[Ref], unpack: Unpack, encoding: Encoding,
    form: str,
) -> list[Vec]:  # fmt: skip
    """`add_minimums` of every block; sums: the tokens' of each unit in turn."""
    tokens = len(sums) // len(units)

    def body(j: e.Value, carried: list[e.Value]) -> list[e.Value]:
        block, out = pen.ref(j), []
        for g, unit in enumerate(units):
            acc = [pen.vec(v) for v in carried[g * tokens : (g + 1) * tokens]]
            at = x + block * block_step(form)
            out += add_minimums(pen, acc, at, unpack(pen, unit, block), encoding, form)
        return [v.value for v in out]

    zero, last = e.number(0), e.number(CELLS)
    return [pen.vec(v) for v in e.loop(pen.b, zero, last, [v.value for v in sums], body)]


def add_minimums(
    pen: Pen, acc: list[Vec], x: Ref, block: Block, encoding: Encoding, form: str
) -> list[Vec]:
    """acc += m * (scale * sum q) for the block at x, for each token."""
    assert block.m is not None
    for m, at in zip(block.m, SUMS, strict=True) if encoding.halves else ((block.m[0], SUM),):
        sums = [pen.splat(x + (BYTES[form] * t + at)) for t in range(len(acc))]
        acc = [m.fma(one, total) for one, total in zip(sums, acc, strict=True)]
    return acc


def add_block(
    pen: Pen, totals: list[Vec], x: Ref, block: Block, encoding: Encoding, form: str, plane: int
) -> list[Vec]:
    """Totals plus a block's part of H (plane 0) or L (plane 1), for the tokens from x on."""
    xs = [x + BYTES[form] * t for t in range(len(totals))]
    raised = raises(pen, block, len(xs))
    assert block.scale is not None
    less = (LESS_HIGH, LESS_LOW)[plane]
    runs = [range(4), range(4, 8)] if encoding.halves else [range(8)]
    for half, (run, scale) in enumerate(zip(runs, block.scale, strict=False)):
        places = less[half : half + 1] if encoding.halves else less
        starts = [start(pen, encoding, at, places, raised) for at in xs]
        bytes_at = [at + planes(form)[plane] for at in xs]
        sums = dots(pen, starts, block, raised, bytes_at, run, top=encoding.top)
        totals = [total + s * scale for total, s in zip(totals, sums, strict=True)]
    return totals


def start(pen: Pen, encoding: Encoding, x: Ref, places: tuple[int, ...], raised: int = 0) -> Vec:
    """-offset * sum x, times 2^raised: added to sum u x it makes sum (u - offset) x."""
    if not encoding.offset:
        return pen.izeros()
    less = pen.isplat(x + places[0])
    for place in places[1:]:
        less = less + pen.isplat(x + place)
    by = (encoding.offset << raised).bit_length() - (32).bit_length()
    return less << by if by > 0 else less.sar(-by) if by else less
