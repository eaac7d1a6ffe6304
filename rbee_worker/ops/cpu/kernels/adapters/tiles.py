"""Tiles of low-rank adapters: one row, or four, by a cell of A, or by a cell of B.

Sums go through columns and ranks in ascending order in every tile, so a row's result does not
depend on how many rows are computed with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device
from rbee_worker.ops.cpu.compiler.simd import F32x16, Float, Int, Ptr, Tuple, Void, op
from rbee_worker.ops.cpu.kernels.product import steps
from rbee_worker.ops.cpu.shared import adapter_table as table

ROWS = 4  # most rows of a tile
WIDE = table.CELL // 16  # vectors of a cell
LOADS = ((s.load_f32, 4), (s.load_f16, 2), (s.load_bf16, 2))  # in the order of `table.FORMS`


def _next(b: e.Builder, p: e.Value, step: e.Value | int, times: int) -> e.Value:
    """p + times * step."""
    if isinstance(step, int):
        return e.at(b, p, step * times)
    return b.add(p, b.mul(step, e.ir.Constant(e.i64, times)))


def _products(b: e.Builder, sums: e.Value, rows: Sequence[Any], others: Sequence[Any]) -> list[Any]:
    """sums[row, other] + row * other."""
    return [
        e.fma(b, row, other, b.extract_value(sums, n * len(others) + k))
        for n, row in enumerate(rows)
        for k, other in enumerate(others)
    ]


def _dots(rows: int, load: Any, size: int, tail: bool) -> Any:
    """An operation (sums, x, x_row, a, left) -> sums: 16 columns of `rows` rows of x times a cell
    of A; with `tail`, the first `left` of them."""
    kind = Tuple(F32x16, rows * table.RANKS)

    def write(
        b: e.Builder, target: str, sums: e.Value, x: e.Value, x_row: e.Value, a: e.Value,
        left: e.Value,
    ) -> list[e.Value]:  # fmt: skip
        places = [_next(b, x, x_row, n) for n in range(rows)]
        given = [
            s.load_first.append(b, target, (p, left))
            if tail
            else s.load_f32.append(b, target, (p,))
            for p in places
        ]
        cell = [e.at(b, a, table.LANES * size * k) for k in range(table.RANKS)]
        factors = [load.append(b, target, (p,)) for p in cell]
        return _products(b, sums, given, factors)

    return op(kind, kind, Ptr, Int, Ptr, Int, target=True)(write)


def _totals(b: e.Builder, vectors: Sequence[Any]) -> Any:
    """A vector of the vectors' totals in their order, again and again. They are a power of 2, at
    most 16. Each is summed as `emit.tree` does, but all of them with few shuffles."""
    width = e.LANES  # of the lanes that belong to one vector
    while width > 1:
        half = width // 2
        firsts = [at + n for at in range(0, e.LANES, width) for n in range(half)]
        seconds = [lane + half for lane in firsts]
        pairs = [(v, v) for v in vectors]
        if len(vectors) > 1:
            pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
        vectors = [b.fadd(_lanes(b, x, y, firsts), _lanes(b, x, y, seconds)) for x, y in pairs]
        width = half
    return vectors[0]


def _lanes(b: e.Builder, x: e.Value, y: e.Value, lanes: Sequence[int]) -> e.Value:
    """These lanes of x, then the same of y."""
    order = e.ir.Constant(e.I32, [*lanes, *(lane + e.LANES for lane in lanes)])
    return b.shuffle_vector(x, y, order)


def _put(rows: int) -> Any:
    """An operation (sums, h, h_row): the totals of the sums, four for each row."""

    def write(b: e.Builder, sums: e.Value, h: e.Value, h_row: e.Value) -> None:
        count = rows * table.RANKS
        found = _totals(b, [b.extract_value(sums, n) for n in range(count)])
        for n in range(rows):
            lanes = range(n * table.RANKS, (n + 1) * table.RANKS)
            order = e.ir.Constant(e.ir.VectorType(e.i32, table.RANKS), list(lanes))
            e.store(b, _next(b, h, h_row, n), b.shuffle_vector(found, found, order), 4)

    return op(Void, Tuple(F32x16, rows * table.RANKS), Ptr, Int)(write)


def _spread(rows: int, load: Any, size: int) -> Any:
    """An operation (sums, h, h_row, factors) -> sums: one rank's number of `rows` rows times a cell
    of B."""
    kind = Tuple(F32x16, rows * WIDE)

    def write(
        b: e.Builder, target: str, sums: e.Value, h: e.Value, h_row: e.Value, p: e.Value
    ) -> list[e.Value]:
        numbers = [s.splat_f32.append(b, target, (_next(b, h, h_row, n),)) for n in range(rows)]
        factors = [load.append(b, target, (e.at(b, p, 16 * size * k),)) for k in range(WIDE)]
        return _products(b, sums, numbers, factors)

    return op(kind, kind, Ptr, Int, Ptr, target=True)(write)


def _put_cell(rows: int) -> Any:
    """An operation (sums, scale, y, y_row, left): adds scale times the sums to a cell of y, of
    which `left` columns are the part's."""

    def write(
        b: e.Builder, sums: e.Value, scale: e.Value, y: e.Value, y_row: e.Value, left: e.Value
    ) -> None:
        times = e.splat(b, scale, e.F32)
        whole = b.icmp_signed(">=", left, e.number(table.CELL))
        with b.if_else(whole) as (yes, no):
            for branch, is_whole in ((yes, True), (no, False)):
                with branch:
                    for n in range(rows):
                        for k in range(WIDE):
                            more = b.extract_value(sums, n * WIDE + k)
                            keep = None if is_whole else b.sub(left, e.number(16 * k))
                            p = e.at(b, _next(b, y, y_row, n), 64 * k)
                            _add_to(b, p, more, times, keep)

    return op(Void, Tuple(F32x16, rows * WIDE), Float, Ptr, Int, Int)(write)


def _add_to(b: e.Builder, p: e.Value, more: e.Value, times: e.Value, keep: e.Value | None) -> None:
    """16 floats at p += more * times, or the first `keep` of them."""
    if keep is None:
        e.store(b, p, e.fma(b, more, times, e.load(b, p, e.F32, 4)), 4)
        return
    with b.if_then(b.icmp_signed(">", keep, e.number(0))):
        limit = b.select(b.icmp_signed("<", keep, e.number(16)), keep, e.number(16))
        e.store_first(b, p, e.fma(b, more, times, e.load_first(b, p, limit)), limit)


def _down_tile(rows: int, load: Any, size: int) -> Callable[..., None]:
    """A device function (a, x, x_row, cols, h, h_row): `rows` rows times a cell of A. All distances
    are in bytes."""
    zeros, put = steps.zeros(rows * table.RANKS), _put(rows)
    step, last = _dots(rows, load, size, False), _dots(rows, load, size, True)

    @device
    def run(a: Ptr, x: Ptr, x_row: Int, cols: Int, h: Ptr, h_row: Int) -> None:
        sums = zeros()
        p, q = a, x
        for _ in range(s.idiv(cols, 16)):
            sums = step(sums, q, x_row, p, 16)
            p += table.RANKS * table.LANES * size
            q += 64
        left = s.imod(cols, 16)
        if left > 0:
            sums = last(sums, q, x_row, p, left)
        put(sums, h, h_row)

    return run


def down_tiles(load: Any, size: int) -> Callable[..., None]:
    """A device function (rows, a, x, x_row, cols, h, h_row): one row, or ROWS, times a cell of
    A."""
    one, several = (_down_tile(rows, load, size) for rows in (1, ROWS))

    @device
    def run(rows: Int, a: Ptr, x: Ptr, x_row: Int, cols: Int, h: Ptr, h_row: Int) -> None:
        if rows == 1:
            one(a, x, x_row, cols, h, h_row)
        else:
            several(a, x, x_row, cols, h, h_row)

    return run


def _up_tile(rows: int, load: Any, size: int) -> Callable[..., None]:
    """A device function (b, h, h_row, rank, scale, y, y_row, left): adds a cell of B for `rows`
    rows, of which `left` columns are the part's. All distances are in bytes."""
    zeros, step, put = steps.zeros(rows * WIDE), _spread(rows, load, size), _put_cell(rows)

    @device
    def run(
        b: Ptr, h: Ptr, h_row: Int, rank: Int, scale: Float, y: Ptr, y_row: Int, left: Int
    ) -> None:
        sums = zeros()
        p, q = b, h
        for _ in range(rank):
            sums = step(sums, q, h_row, p)
            p += table.CELL * size
            q += 4
        put(sums, scale, y, y_row, left)

    return run


def up_tiles(load: Any, size: int) -> Callable[..., None]:
    """A device function (rows, b, h, h_row, rank, scale, y, y_row, left): adds a cell of B for one
    row, or ROWS."""
    one, several = (_up_tile(rows, load, size) for rows in (1, ROWS))

    @device
    def run(
        rows: Int, b: Ptr, h: Ptr, h_row: Int, rank: Int, scale: Float, y: Ptr, y_row: Int,
        left: Int,
    ) -> None:  # fmt: skip
        if rows == 1:
            one(b, h, h_row, rank, scale, y, y_row, left)
        else:
            several(b, h, h_row, rank, scale, y, y_row, left)

    return run
