"""The inner loops of attention: blocks of accumulators in registers, as LLVM IR.

Each accumulator is one chain in ascending order (of columns, or of keys), so the bits of a query's
result do not depend on how many queries are computed together. `kind` is a KV cache's dtype.
"""

from __future__ import annotations

from typing import Any

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.simd import F32x16, Int, Ptr, Void, op
from rbee_worker.ops.cpu.compiler.vec import Pen, Ref, Vec

GROUP = 16  # keys that are stored together, one in each lane
WIDE = 4  # groups of keys, or vectors of value columns, computed together
BYTES = {"f32": 4, "f16": 2, "bf16": 2, "i8": 1}


def _load(pen: Pen, p: Ref, kind: str) -> Vec:
    """16 numbers of a KV cache as floats; those of int8 without their scale."""
    if kind == "i8":
        return pen.load_s8(p).to_f32()
    return {"f32": pen.load_f32, "f16": pen.load_f16, "bf16": pen.load_bf16}[kind](p)


def _at(pen: Pen, p: e.Value, *steps: tuple[e.Value, e.Value | int]) -> Ref:
    """p plus the product of each pair in `steps`."""
    ref = pen.ref(p)
    for count, size in steps:
        factor = e.ir.Constant(e.i64, size) if isinstance(size, int) else size
        ref = ref + pen.ref(pen.b.mul(count, factor))
    return ref


def scores(kind: str, queries: int) -> Any:
    """An operation (q, q_stride, keys, dim, out, out_stride): products of `queries` queries with 4
    groups of keys.

    q: float32 [queries, dim]; keys: addresses of 4 groups [dim, 16]; out: float32 [queries, 64].
    Strides in bytes.
    """

    def write(
        b: e.Builder, target: str, q: e.Value, q_stride: e.Value, keys: e.Value, dim: e.Value,
        out: e.Value, out_stride: e.Value,
    ) -> None:  # fmt: skip
        pen = Pen(b, target)
        groups = [e.load(b, e.at(b, keys, 8 * g), e.i64, 8) for g in range(WIDE)]
        rows = [_at(pen, q, (e.ir.Constant(e.i64, n), q_stride)) for n in range(queries)]

        def body(d: e.Value, acc: list[e.Value]) -> list[e.Value]:
            k = [_load(pen, _at(pen, g, (d, GROUP * BYTES[kind])), kind) for g in groups]
            out = []
            for n, row in enumerate(rows):
                x = pen.splat(_at(pen, row.value, (d, 4)))
                out += [x.fma(k[g], pen.vec(acc[WIDE * n + g])).value for g in range(WIDE)]
            return out

        zero = e.ir.Constant(e.i64, 0)
        sums = e.loop(b, zero, dim, [e.const(0.0, e.F32)] * (WIDE * queries), body)
        for n in range(queries):
            to = _at(pen, out, (e.ir.Constant(e.i64, n), out_stride))
            for g in range(WIDE):
                pen.vec(sums[WIDE * n + g]).store(to + 64 * g)

    return op(Void, Ptr, Int, Ptr, Int, Ptr, Int, target=True)(write)


def values(kind: str, queries: int, vectors: int, tail: int) -> Any:
    """An operation (p, p_stride, groups, begin, end, row, column, acc, acc_stride): acc += p V.

    p: float32 [queries, keys]; groups: addresses of the values of 16 keys each, `row` bytes a key;
    column: the first column's offset in bytes; acc: float32 [queries, 16 * vectors], of which the
    last vector has `tail` columns (0 = 16).
    """

    def write(
        b: e.Builder, target: str, p: e.Value, p_stride: e.Value, groups: e.Value, begin: e.Value,
        end: e.Value, row: e.Value, column: e.Value, acc: e.Value, acc_stride: e.Value,
    ) -> None:  # fmt: skip
        pen = Pen(b, target)
        homes = [_at(pen, acc, (e.ir.Constant(e.i64, n), acc_stride)) for n in range(queries)]
        rows = [_at(pen, p, (e.ir.Constant(e.i64, n), p_stride)) for n in range(queries)]
        fifteen, four = e.ir.Constant(e.i64, GROUP - 1), e.ir.Constant(e.i64, 4)

        def body(key: e.Value, sums: list[e.Value]) -> list[e.Value]:
            group = e.load(b, _at(pen, groups, (b.lshr(key, four), 8)).value, e.i64, 8)
            at = _at(pen, group, (b.and_(key, fifteen), row)) + pen.ref(column)
            v = []
            for n in range(vectors):
                from_ = at + GROUP * BYTES[kind] * n
                last = tail and n == vectors - 1
                v.append(_load_first(pen, from_, kind, tail) if last else _load(pen, from_, kind))
            out = []
            for n, weight in enumerate(rows):
                w = pen.splat(_at(pen, weight.value, (key, 4)))
                out += [w.fma(v[m], pen.vec(sums[vectors * n + m])).value for m in range(vectors)]
            return out

        start = [pen.load_f32(home + 64 * m).value for home in homes for m in range(vectors)]
        sums = e.loop(b, begin, end, start, body)
        for n, home in enumerate(homes):
            for m in range(vectors):
                pen.vec(sums[vectors * n + m]).store(home + 64 * m)

    params = (Ptr, Int, Ptr, Int, Int, Int, Int, Ptr, Int)
    return op(Void, *params, target=True)(write)


def _load_first(pen: Pen, p: Ref, kind: str, count: int) -> Vec:
    """`count` numbers as floats, then zeros; nothing beyond them is read."""
    bits = e.ir.VectorType(e.ir.IntType(8 * BYTES[kind]), e.LANES)
    whole = e.ir.Constant(bits, [0] * e.LANES)
    for n in range(count):
        one = e.load(pen.b, (p + n * BYTES[kind]).value, bits.element)
        whole = pen.b.insert_element(whole, one, e.ir.Constant(e.i32, n))
    if kind == "f32":
        return pen.vec(pen.b.bitcast(whole, e.F32))
    if kind == "i8":
        return pen.vec(pen.b.sitofp(whole, e.F32))
    if kind == "bf16":
        return pen.vec(e.widen_bf16(pen.b, whole))
    return pen.vec(e.widen_f16(pen.b, whole, pen.native_f16))


def latent_values(kind: str) -> Any:
    """An operation (p, groups, first, last, dim, acc): acc += p V where values are the first `dim`
    columns of the keys.

    p: float32, 16 keys a group, for groups first .. last - 1; groups: addresses of keys
    [k_dim, 16]; acc: float32 [dim]. A key of weight 0 adds nothing, whatever its value. A column is
    summed in 16 lanes over ascending groups; the lanes are joined by the fixed tree.
    """

    def write(
        b: e.Builder, target: str, p: e.Value, groups: e.Value, first: e.Value, last: e.Value,
        dim: e.Value, acc: e.Value,
    ) -> None:  # fmt: skip
        pen = Pen(b, target)
        zero = e.const(0.0, e.F32)

        def column(d: e.Value, _none: list[e.Value]) -> list[e.Value]:
            def add(group: e.Value, sums: list[e.Value]) -> list[e.Value]:
                w = pen.load_f32(_at(pen, p, (group, 64)))
                at = e.load(b, _at(pen, groups, (group, 8)).value, e.i64, 8)
                v = _load(pen, _at(pen, at, (d, GROUP * BYTES[kind])), kind)
                seen = b.select(b.fcmp_ordered("==", w.value, zero), zero, v.value)
                return [w.fma(pen.vec(seen), pen.vec(sums[0])).value]

            (sums,) = e.loop(b, first, last, [zero], add)
            at = _at(pen, acc, (d, 4)).value
            one = e.tree(b, sums, lambda c, x, y: c.fadd(x, y))
            e.store(b, at, b.fadd(e.load(b, at, e.f32, 4), one), 4)
            return []

        e.loop(b, e.ir.Constant(e.i64, 0), dim, [], column)

    return op(Void, Ptr, Ptr, Int, Int, Int, Ptr, target=True)(write)


def _narrow(pen: Pen, v: e.Value, kind: str) -> e.Value:
    """16 floats in a cache's dtype; for int8 they have been divided by their scale."""
    b = pen.b
    return {
        "f32": lambda: b.bitcast(v, e.I32),
        "f16": lambda: e.narrow_f16(b, v, pen.native_f16),
        "bf16": lambda: e.narrow_bf16(b, v),
        "i8": lambda: b.trunc(b.fptosi(v, e.I32), e.I8),
    }[kind]()


def store(kind: str) -> Any:
    """An operation (v, p) that writes 16 lanes as `kind`, one after another."""

    def write(b: e.Builder, target: str, v: e.Value, p: e.Value) -> None:
        e.store(b, p, _narrow(Pen(b, target), v, kind), BYTES[kind])

    return op(Void, F32x16, Ptr, target=True)(write)


def scatter(kind: str) -> Any:
    """An operation (v, p, stride, count): write `count` lanes as `kind`, `stride` bytes apart."""

    def write(
        b: e.Builder, target: str, v: e.Value, p: e.Value, stride: e.Value, count: e.Value
    ) -> None:
        pen = Pen(b, target)
        narrow = _narrow(pen, v, kind)
        zero, lanes = e.ir.Constant(e.i64, 0), e.ir.Constant(e.i64, e.LANES)

        def one(lane: e.Value, _none: list[e.Value]) -> list[e.Value]:
            word = b.extract_element(narrow, b.trunc(lane, e.i32))
            e.store(b, _at(pen, p, (lane, stride)).value, word)
            return []

        with b.if_else(b.icmp_signed("==", count, lanes)) as (whole, some):
            with whole:  # most often, and several times as fast
                for lane in range(e.LANES):
                    one(e.ir.Constant(e.i64, lane), [])
            with some:
                e.loop(b, zero, count, [], one)

    return op(Void, F32x16, Ptr, Int, Int, target=True)(write)
