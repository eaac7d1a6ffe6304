"""One block of 32 columns times T tokens, for 16 rows: the inner step of every matrix product.

`step(T, held, form)` makes an operation `(sums, x, p, j, other) -> sums`, unrolled over tokens, for
block j of the unit at p; it prefetches the block at `other`. `sums` holds T vectors whose lanes are
rows. Each adds its terms in the same order for every T, so a result does not depend on the tile
that it was computed in.

Activations are stored in groups of 8 tokens, block by block, token by token
(`kernels/product/prepare.py`), in one of the forms of `forms.py`:
i8: 32 int8; f32 scale d; i32 -8 sum; f32 d * sum; i32 -128 sum; 16 unused bytes.
i16: the same for numbers q = 256 high + low; the first 32 bytes are `high`, the 32 at 64 are `low`.
k8, k16: see `k_steps.py`, whose steps take a whole unit.
exact: 32 f32; f32 sum of all, of columns 0-15, of columns 16-31.
b16: 32 bf16.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.dots import SMALL, small_dots
from rbee_worker.ops.cpu.compiler.simd import F32x16, Int, Ptr, Tuple, Void, op
from rbee_worker.ops.cpu.compiler.vec import Pen, Ref, Vec
from rbee_worker.ops.cpu.kernels.product.blocks import BLOCKS, RAISED, Block, Encoding, floats
from rbee_worker.ops.cpu.shared.forms import B16, BYTES, LOW, SCALE, SUM
from rbee_worker.ops.cpu.shared.held import HELD

LESS8, LESS128 = 36, 44  # in i8 and i16
EXACT_SUM, EXACT_SUMS = 128, (132, 136)


def sums_type(tokens: int) -> Any:
    """The type of `tokens` vectors."""
    return Tuple(F32x16, tokens)


def step(tokens: int, name: str, form: str) -> Any:
    """The operation for held format `name`; see the module's docstring."""
    kind = sums_type(tokens)

    def write(
        b: e.Builder, target: str, sums: e.Value, x: e.Value, p: e.Value, j: e.Value, other: e.Value
    ) -> list[e.Value]:
        pen = Pen(b, target)
        prefetch(pen, pen.ref(other), block_bytes(name))
        acc = [pen.vec(b.extract_value(sums, t)) for t in range(tokens)]
        acc = _step(pen, acc, pen.ref(x), pen.ref(p), pen.ref(j), name, form)
        return [v.value for v in acc]

    return op(kind, kind, Ptr, Ptr, Int, Ptr, target=True)(write)


def block_bytes(name: str) -> int:
    """Bytes of 16 rows and 32 columns of held format `name`."""
    return HELD[name].nbytes // (HELD[name].columns // 32)


def prefetch(pen: Pen, p: Ref, nbytes: int) -> None:
    """Prefetch `nbytes` bytes from p on."""
    for line in range(0, nbytes, 64):
        e.prefetch(pen.b, (p + line).value)


def _step(
    pen: Pen, acc: list[Vec], x: Ref, unit: Ref, block: Ref, name: str, form: str
) -> list[Vec]:
    if form == B16:
        return _pairs(pen, acc, x, unit)
    if HELD[name].is_float:
        return _plain(pen, acc, x, unit, name)
    unpack, encoding = BLOCKS[name]
    term = _exact if form == "exact" else functools.partial(_integers, form=form)
    return term(pen, acc, x, unpack(pen, unit, block), encoding)


def _integers(
    pen: Pen, acc: list[Vec], x: Ref, block: Block, encoding: Encoding, *, form: str
) -> list[Vec]:
    """acc += (d * scale) * integer, then += m * sum."""
    assert not encoding.halves
    xs, out = [x + BYTES[form] * t for t in range(len(acc))], []
    for at, total, whole in zip(xs, acc, _wholes(pen, block, encoding, xs, form), strict=True):
        total = (block.d[0] * pen.splat(at + SCALE)).fma(whole.to_f32(), total)
        if block.m is not None:
            total = block.m[0].fma(pen.splat(at + SUM), total)
        out.append(total)
    return out


def _wholes(pen: Pen, block: Block, encoding: Encoding, xs: list[Ref], form: str) -> list[Vec]:
    """For each token the integer product; |sum| < 2^31 in every format."""
    raised = raises(pen, block, len(xs))
    starts = [_start(pen, encoding, x, raised) for x in xs]
    if form == "i8":
        return dots(pen, starts, block, raised, xs, top=encoding.top)
    zeros = [pen.izeros()] * len(xs)
    high = dots(pen, zeros, block, raised, xs, top=encoding.top)
    low = dots(pen, starts, block, raised, [x + LOW for x in xs], top=encoding.top)
    return [a + (b << 8) for a, b in zip(low, high, strict=True)]


def raises(pen: Pen, block: Block, tokens: int) -> int:
    """By how many bits weights are multiplied raised: it gains nothing with several tokens, nor
    where raised bytes are too large for `small_dots`."""
    return RAISED if block.raised and tokens == 1 and pen.multiplies != "maddubs" else 0


def dots(
    pen: Pen,
    acc: list[Vec],
    block: Block,
    raised: int,
    xs: list[Ref],
    run: range = range(8),
    *,
    top: int = 255,
) -> list[Vec]:
    """acc / 2^raised + the products of the columns that vectors `run` hold. top: the largest of
    their bytes.

    Several tokens hide each other's latency. One token takes two chains instead; the one that
    begins with acc may multiply raised weights.
    """
    if pen.multiplies == "maddubs" and top <= SMALL:
        words = [w.value for w in block.w[run.start : run.stop]]
        splats = [[pen.isplat(x + 4 * k).value for k in run] for x in xs]
        found = small_dots(pen.b, [a.value for a in acc], words, splats, top)
        return [pen.vec(v) for v in found]

    def chain(acc: list[Vec], words: list[Vec], first: int) -> list[Vec]:
        for k, w in enumerate(words, first):
            splats = [pen.isplat(x + 4 * k) for x in xs]
            acc = [pen.dot(a, w, s) for a, s in zip(acc, splats, strict=True)]
        return acc

    if len(xs) > 1 or len(run) < 8:
        return chain(acc, block.w[run.start : run.stop], run.start)
    (second,) = chain(acc, block.raised if raised and block.raised else block.w[4:], 4)
    (first,) = chain([pen.izeros()], block.w[:4], 0)
    return [first + (second.sar(raised) if raised else second)]


def _start(pen: Pen, encoding: Encoding, x: Ref, raised: int) -> Vec:
    """-offset * sum x, times 2^raised: added to sum u x it makes sum (u - offset) x."""
    if not encoding.offset:
        return pen.izeros()
    times = encoding.offset << raised
    at, has = (LESS128, 128) if times >= 128 else (LESS8, 8)
    less, by = pen.isplat(x + at), times.bit_length() - has.bit_length()
    return less << by if by > 0 else less.sar(-by) if by else less


def _exact(pen: Pen, acc: list[Vec], x: Ref, block: Block, encoding: Encoding) -> list[Vec]:
    """Each 16 columns are one chain that begins at zero; then as for int8."""

    def column(k: int) -> Vec:
        return (((block.w[k // 4] >> (8 * (k % 4))) & 0xFF) - encoding.offset).to_f32()

    low, high = (_chains(pen, len(acc), x, column, first) for first in (0, 16))
    out = []
    for t, total in enumerate(acc):
        at = x + BYTES["exact"] * t
        if encoding.halves:
            for half, chains in enumerate((low, high)):
                total = block.d[half].fma(chains[t], total)
                if block.m is not None:
                    total = block.m[half].fma(pen.splat(at + EXACT_SUMS[half]), total)
        else:
            total = block.d[0].fma(low[t] + high[t], total)
            if block.m is not None:
                total = block.m[0].fma(pen.splat(at + EXACT_SUM), total)
        out.append(total)
    return out


def _plain(pen: Pen, acc: list[Vec], x: Ref, unit: Ref, name: str) -> list[Vec]:
    """Float weights: each 16 columns are one chain that begins at zero; both are added to acc."""
    column = floats(pen, unit, name)
    low, high = (_chains(pen, len(acc), x, column, first) for first in (0, 16))
    return [total + (a + b) for total, a, b in zip(acc, low, high, strict=True)]


def _pairs(pen: Pen, acc: list[Vec], x: Ref, unit: Ref) -> list[Vec]:
    """bf16 times bf16, two columns at a time: each 16 columns are one chain that begins at zero;
    both are added to acc."""
    halves = []
    for first in (0, 8):
        chains = [pen.zeros()] * len(acc)
        for k in range(first, first + 8):
            w = pen.load(unit + 64 * k)
            for t in range(len(acc)):
                chains[t] = pen.dot_bf16(chains[t], w, pen.isplat(x + (BYTES[B16] * t + 4 * k)))
        halves.append(chains)
    return [total + (a + b) for total, a, b in zip(acc, *halves, strict=True)]


def _chains(pen: Pen, tokens: int, x: Ref, column: Callable[[int], Vec], first: int) -> list[Vec]:
    """Sum over 16 columns from `first` of weight times activation, for each token."""
    chains = [pen.zeros()] * tokens
    for k in range(first, first + 16):
        w = column(k)
        for t in range(tokens):
            chains[t] = w.fma(pen.splat(x + (BYTES["exact"] * t + 4 * k)), chains[t])
    return chains


def zeros(tokens: int) -> Any:
    """An operation: sums for `tokens` tokens, all zero."""
    return op(sums_type(tokens))(lambda b: [e.const(0.0, e.F32)] * tokens)


def wide(groups: int, name: str, form: str) -> Any:
    """`step` for one token and `groups` groups of rows: `(sums, x, p, group_step, j, far) -> sums`,
    where group g's unit is at p + g * group_step. Prefetches the block `far` bytes after each."""
    kind, nbytes = sums_type(groups), block_bytes(name)

    def write(
        b: e.Builder,
        target: str,
        sums: e.Value,
        x: e.Value,
        p: e.Value,
        group_step: e.Value,
        j: e.Value,
        far: e.Value,
    ) -> list[e.Value]:
        pen, at, units = Pen(b, target), x, [p]
        for _ in range(groups - 1):
            units.append(b.add(units[-1], group_step))
        there = b.add(b.mul(j, e.number(nbytes)), far)
        for unit in units:
            prefetch(pen, pen.ref(b.add(unit, there)), nbytes)
        out = []
        for g, unit in enumerate(units):
            acc = [pen.vec(b.extract_value(sums, g))]
            out += _step(pen, acc, pen.ref(at), pen.ref(unit), pen.ref(j), name, form)
        return [v.value for v in out]

    return op(kind, kind, Ptr, Ptr, Int, Int, Int, target=True)(write)


def put_wide(groups: int) -> Any:
    """An operation `(sums, y, bias)` that writes the results of whole groups one after another,
    plus the floats at bias unless bias is 0."""

    def write(b: e.Builder, sums: e.Value, y: e.Value, bias: e.Value) -> None:
        with b.if_else(b.icmp_signed("!=", bias, e.number(0))) as (yes, no):
            for branch, biased in ((yes, True), (no, False)):
                with branch:
                    for g in range(groups):
                        v = b.extract_value(sums, g)
                        if biased:
                            v = b.fadd(v, e.load(b, e.at(b, bias, 64 * g), e.F32, 4))
                        e.store(b, e.at(b, y, 64 * g), v, 4)

    return op(Void, sums_type(groups), Ptr, Ptr)(write)


def put(tokens: int) -> Any:
    """An operation `(sums, y, stride, bias, rows)` that writes min(rows, 16) results of each token,
    `stride` floats apart, plus the 16 floats at bias unless bias is 0."""

    def write(
        b: e.Builder, sums: e.Value, y: e.Value, stride: e.Value, bias: e.Value, rows: e.Value
    ) -> None:
        zero = e.number(0)
        added = b.alloca(e.F32)
        b.store(e.const(-0.0, e.F32), added)  # adding -0.0 changes nothing
        with b.if_then(b.icmp_signed("!=", bias, zero)):
            b.store(e.load(b, bias, e.F32, 4), added)
        extra = b.load(added)
        step_bytes = b.mul(stride, e.number(4))
        whole = b.icmp_signed(">=", rows, e.number(16))
        with b.if_else(whole) as (yes, no):
            for branch, keep in ((yes, None), (no, rows)):
                with branch:
                    p = y
                    for t in range(tokens):
                        e.store_first(b, p, b.fadd(b.extract_value(sums, t), extra), keep)
                        p = b.add(p, step_bytes)

    return op(Void, sums_type(tokens), Ptr, Int, Ptr, Int)(write)
