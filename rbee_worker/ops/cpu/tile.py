"""One block of 32 columns times T tokens, for 16 rows: the inner step of every matrix product.

`step(T, held, form)` gives an operation `(sums, x, p, j) -> sums`, unrolled over tokens, for block
j of the unit at p. `sums` holds T vectors whose lanes are rows; each takes its terms in the
same order for every T, so a result does not depend on what tile it was computed in.

Activations lie in groups of 8 tokens, block by block, token by token (`kernels/prepare.py`), in
one of the forms of `forms.py`:
i8: 32 int8; f32 scale d; i32 -sum; f32 d * sum; then i32 -sum of columns 0-15 and 16-31, and f32
d times these sums.
i16: the same for numbers q = 256 high + low, the first 32 bytes being `high`; at 64 32 bytes `low`.
exact: 32 f32; f32 sum of all, of columns 0-15, of columns 16-31.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterable
from typing import Any

from rbee_worker.ops.cpu import emit as e
from rbee_worker.ops.cpu.blocks import BLOCKS, Block, Shape
from rbee_worker.ops.cpu.forms import BYTES
from rbee_worker.ops.cpu.held import HELD
from rbee_worker.ops.cpu.simd import F32x16, Int, Ptr, Tuple, Void, op
from rbee_worker.ops.cpu.vec import Pen, Ref, Vec

SCALE, NEGSUM, SUM, NEGSUMS, SUMS = 32, 36, 40, (44, 48), (52, 56)  # offsets in i8 and i16
LOW = 64  # offset in i16
EXACT_SUM, EXACT_SUMS = 128, (132, 136)

AHEAD = 1024  # bytes of weights asked for before they are needed; 512 and 2048 were no better


def sums_type(tokens: int) -> Any:
    """The type of `tokens` vectors."""
    return Tuple(F32x16, tokens)


def step(tokens: int, name: str, form: str) -> Any:
    """The operation for held format `name`; see the module's docstring."""
    kind = sums_type(tokens)

    def write(
        b: e.Builder, target: str, sums: e.Value, x: e.Value, p: e.Value, j: e.Value
    ) -> list[e.Value]:
        pen = Pen(b, target)
        acc = [pen.vec(b.extract_value(sums, t)) for t in range(tokens)]
        acc = _step(pen, acc, pen.ref(x), pen.ref(p), pen.ref(j), name, form)
        return [v.value for v in acc]

    return op(kind, kind, Ptr, Ptr, Int, target=True)(write)


def _step(
    pen: Pen, acc: list[Vec], x: Ref, unit: Ref, block: Ref, name: str, form: str
) -> list[Vec]:
    if HELD[name].is_float:
        return _plain(pen, acc, x, unit, name)
    unpack, shape = BLOCKS[name]
    term = _exact if form == "exact" else functools.partial(_integers, form=form)
    return term(pen, acc, x, unpack(pen, unit, block), shape)


def _integers(
    pen: Pen, acc: list[Vec], x: Ref, block: Block, shape: Shape, *, form: str
) -> list[Vec]:
    """acc += (d * scale) * integer, then += m * sum; for each half if it has its own d."""
    out = []
    for t, total in enumerate(acc):
        at = x + BYTES[form] * t
        scale = pen.splat(at + SCALE)
        if shape.halves:
            for half in (0, 1):
                start = _start(pen, shape, at + NEGSUMS[half])
                whole = _whole(pen, start, block, at, (4 * half,), form)
                total = (block.d[half] * scale).fma(whole.to_f32(), total)
                if block.m is not None:
                    total = block.m[half].fma(pen.splat(at + SUMS[half]), total)
        else:
            whole = _whole(pen, _start(pen, shape, at + NEGSUM), block, at, (0, 4), form)
            total = (block.d[0] * scale).fma(whole.to_f32(), total)
            if block.m is not None:
                total = block.m[0].fma(pen.splat(at + SUM), total)
        out.append(total)
    return out


def _whole(pen: Pen, start: Vec, block: Block, x: Ref, runs: tuple[int, ...], form: str) -> Vec:
    """start + the integer products of runs of 16 columns; |sum| < 2^31 in every format."""
    if form == "i16":
        high = _sum(_dots(pen, pen.izeros(), block, x, first) for first in runs)
        start, x = start + (high << 8), x + LOW
    first, *others = runs
    low = _dots(pen, start, block, x, first)
    return _sum([low, *(_dots(pen, pen.izeros(), block, x, other) for other in others)])


def _sum(parts: Iterable[Vec]) -> Vec:
    return functools.reduce(operator.add, parts)


def _dots(pen: Pen, acc: Vec, block: Block, x: Ref, first: int) -> Vec:
    for k in range(first, first + 4):
        acc = pen.dot(acc, block.w[k], pen.isplat(x + 4 * k))
    return acc


def _start(pen: Pen, shape: Shape, negsum: Ref) -> Vec:
    """What makes sum (u - offset) x of sum u x: -offset * sum x."""
    if not shape.offset:
        return pen.izeros()
    return pen.isplat(negsum) << (shape.offset.bit_length() - 1)


def _exact(pen: Pen, acc: list[Vec], x: Ref, block: Block, shape: Shape) -> list[Vec]:
    """Each 16 columns one chain from zero; then as for int8."""

    def column(k: int) -> Vec:
        return (((block.w[k // 4] >> (8 * (k % 4))) & 0xFF) - shape.offset).to_f32()

    low, high = (_chains(pen, len(acc), x, column, first) for first in (0, 16))
    out = []
    for t, total in enumerate(acc):
        at = x + BYTES["exact"] * t
        if shape.halves:
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
    """Float weights: each 16 columns one chain from zero, both added to the sum."""
    load = {"f32": pen.load_f32, "bf16": pen.load_bf16, "f16": pen.load_f16}[name]
    width = HELD[name].nbytes // 32

    def column(k: int) -> Vec:
        return load(unit + width * k)

    low, high = (_chains(pen, len(acc), x, column, first) for first in (0, 16))
    return [total + (a + b) for total, a, b in zip(acc, low, high, strict=True)]


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
    """`step` for one token and `groups` groups of rows: `(sums, x, p, apart, j) -> sums`, where
    group g's unit is at p + g * apart. Asks for what lies AHEAD of each, a stream a group."""
    kind = sums_type(groups)
    held = HELD[name]
    nbytes = held.nbytes // (held.columns // 32)

    def write(
        b: e.Builder,
        target: str,
        sums: e.Value,
        x: e.Value,
        p: e.Value,
        apart: e.Value,
        j: e.Value,
    ) -> list[e.Value]:
        pen, at, units = Pen(b, target), x, [p]
        for _ in range(groups - 1):
            units.append(b.add(units[-1], apart))
        here = b.mul(j, e.number(nbytes))
        for unit in units:
            for line in range(0, nbytes, 64):
                e.prefetch(b, e.at(b, b.add(unit, here), AHEAD + line))
        out = []
        for g, unit in enumerate(units):
            acc = [pen.vec(b.extract_value(sums, g))]
            out += _step(pen, acc, pen.ref(at), pen.ref(unit), pen.ref(j), name, form)
        return [v.value for v in out]

    return op(kind, kind, Ptr, Ptr, Int, Int, target=True)(write)


def ahead(name: str) -> Any:
    """An operation `(p)`: ask for the block at p."""
    held = HELD[name]
    nbytes = held.nbytes // (held.columns // 32)

    def write(b: e.Builder, p: e.Value) -> None:
        for line in range(0, nbytes, 64):
            e.prefetch(b, e.at(b, p, line))

    return op(Void, Ptr)(write)


def put_wide(groups: int) -> Any:
    """An operation `(sums, y, bias)`: write the results of whole groups one after another, plus
    the floats at bias unless that is 0."""

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
    """An operation `(sums, y, stride, bias, rows)`: write min(rows, 16) results of each token,
    `stride` floats apart, plus the 16 floats at bias unless that is 0."""

    def write(
        b: e.Builder, sums: e.Value, y: e.Value, stride: e.Value, bias: e.Value, rows: e.Value
    ) -> None:
        zero = e.number(0)
        added = b.alloca(e.F32)
        b.store(e.const(-0.0, e.F32), added)  # adding -0.0 changes nothing, not even a sign
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
