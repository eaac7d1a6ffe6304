"""Low-rank adapters: h = A x for each row and part of a site, then y += scale * B h.

Each row's adapter is in the step's header; a row without one costs a look at its number. A tile is
four ranks, or 64 columns of y, by four rows that use the same adapter, or by one row. Sums go
through columns and ranks in ascending order in every tile, so a row's result does not depend on the
others, nor on how threads share the work. Factors are read in the adapter's own form, in the order
in which they lie in memory. Nothing is prefetched: the processor does that, and hints slowed it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import F32x16, Float, Int, Ptr, Tuple, Void, op
from rbee_worker.ops.cpu.kernels.product import steps
from rbee_worker.ops.cpu.kernels.shares import share
from rbee_worker.ops.cpu.shared import adapter_table as table
from rbee_worker.ops.cpu.shared import step as header

ROWS = 4  # rows of a tile
MANY = 4  # tiles of rows for each thread from which threads share rows, not ranks and columns
WIDE = table.CELL // 16  # vectors of a cell
_LOADS = ((s.load_f32, 4), (s.load_f16, 2), (s.load_bf16, 2))  # in the order of `table.FORMS`


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
    """A device function (a, x, x_row, cols, h, h_row): `rows` rows times a cell of ranks. All
    distances are in bytes."""
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


def _up_tile(rows: int, load: Any, size: int) -> Callable[..., None]:
    """A device function (b, h, h_row, rank, scale, y, y_row, left): adds a cell of `rows` rows, of
    which `left` columns are the part's. All distances are in bytes."""
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


def _by_form(tile: Callable[[int, Any, int], Callable[..., None]], rows: int) -> list[Any]:
    """A tile's device function for each of `table.FORMS`."""
    return [tile(rows, load, size) for load, size in _LOADS]


@device
def alike(slots: Ptr, t: Int, n: Int) -> Int:
    """1 if there are rows t .. t + 3 and they use one adapter."""
    if t + 4 > n:
        return 0
    first = s.get_i64(slots + 8 * t)
    for k in range(1, 4):
        if s.get_i64(slots + 8 * (t + k)) != first:
            return 0
    return 1


@device
def sharing(tid: Int, nt: Int, tiles: Int) -> tuple[Int, Int, Int, Int]:
    """Which of a step's tiles of rows are this thread's, first .. last, and which share of the
    work in each: the place'th of `of`."""
    if tiles >= MANY * nt:
        return share(tid, nt, tiles), share(tid + 1, nt, tiles), 0, 1
    return 0, tiles, tid, nt


def _down() -> Callable[..., None]:
    one_f32, one_f16, one_bf16 = _by_form(_down_tile, 1)
    four_f32, four_f16, four_bf16 = _by_form(_down_tile, ROWS)

    @device
    def some(
        rows: Int, record: Ptr, k: Int, x: Ptr, x_row: Int, cols: Int, h: Ptr, h_row: Int
    ) -> None:
        """Ranks k .. k + 3 of one row, or of four."""
        a, form = s.get_i64(record + table.A), s.get_i64(record + table.FORM)
        at = k * s.idiv(cols + 15, 16) * 16
        if form == 0:
            if rows == 1:
                one_f32(a + 4 * at, x, x_row, cols, h, h_row)
            else:
                four_f32(a + 4 * at, x, x_row, cols, h, h_row)
        elif form == 1:
            if rows == 1:
                one_f16(a + 2 * at, x, x_row, cols, h, h_row)
            else:
                four_f16(a + 2 * at, x, x_row, cols, h, h_row)
        elif rows == 1:
            one_bf16(a + 2 * at, x, x_row, cols, h, h_row)
        else:
            four_bf16(a + 2 * at, x, x_row, cols, h, h_row)

    @device
    def fours(record: Ptr) -> Int:
        """Cells of ranks in a part."""
        return s.idiv(s.get_i64(record + table.RANK) + table.RANKS - 1, table.RANKS)

    @device
    def row_of_parts(
        rows: Int, records: Ptr, parts: Int, place: Int, of: Int,
        x: Ptr, x_row: Int, cols: Int, h: Ptr, h_row: Int, wide: Int,
    ) -> None:  # fmt: skip
        """This thread's share of all parts' ranks, for one row or for four."""
        every, before = 0, 0
        for part in range(parts):
            every += fours(records + part * table.PART_BYTES)
        first, last = share(place, of, every), share(place + 1, of, every)
        for part in range(parts):
            record = records + part * table.PART_BYTES
            count = fours(record)
            for four in range(s.larger(first - before, 0), s.smaller(last - before, count)):
                k = table.RANKS * four
                some(rows, record, k, x, x_row, cols, h + 4 * (part * wide + k), h_row)
            before += count

    def run(
        step: Ptr, tid: Int, nt: Int,
        x: Ptr, x_stride: Int, cols: Int, h: Ptr, h_stride: Int, wide: Int, parts: Int,
        entries: Ptr,
    ) -> None:  # fmt: skip
        """h: the ranks of every part, `wide` numbers of a row each."""
        n, slots = s.get_i64(step + header.N), s.get_i64(step + header.ADAPTERS)
        begin, end, place, of = sharing(tid, nt, s.idiv(n + ROWS - 1, ROWS))
        for tile in range(begin, end):
            t = ROWS * tile
            count, last = 1, s.smaller(t + ROWS, n)
            if alike(slots, t, n) == 1:
                count, last = ROWS, t + 1
            for row in range(t, last):
                slot = s.get_i64(slots + 8 * row)
                if slot > 0:
                    records = entries + slot * parts * table.PART_BYTES
                    source, to = x + 4 * row * x_stride, h + 4 * row * h_stride
                    row_of_parts(
                        count, records, parts, place, of,
                        source, 4 * x_stride, cols, to, 4 * h_stride, wide,
                    )  # fmt: skip

    return run


def _up() -> Callable[..., None]:
    one_f32, one_f16, one_bf16 = _by_form(_up_tile, 1)
    four_f32, four_f16, four_bf16 = _by_form(_up_tile, ROWS)

    @device
    def some(rows: Int, record: Ptr, cell: Int, h: Ptr, h_row: Int, y: Ptr, y_row: Int) -> None:
        """A cell of one row, or of four."""
        b, rank = s.get_i64(record + table.B), s.get_i64(record + table.RANK)
        form, scale = s.get_i64(record + table.FORM), s.bits_f32(s.get_i64(record + table.SCALE))
        at, left = cell * rank * table.CELL, s.get_i64(record + table.ROWS) - cell * table.CELL
        to = y + 4 * (s.get_i64(record + table.FIRST) + cell * table.CELL)
        if form == 0:
            if rows == 1:
                one_f32(b + 4 * at, h, h_row, rank, scale, to, y_row, left)
            else:
                four_f32(b + 4 * at, h, h_row, rank, scale, to, y_row, left)
        elif form == 1:
            if rows == 1:
                one_f16(b + 2 * at, h, h_row, rank, scale, to, y_row, left)
            else:
                four_f16(b + 2 * at, h, h_row, rank, scale, to, y_row, left)
        elif rows == 1:
            one_bf16(b + 2 * at, h, h_row, rank, scale, to, y_row, left)
        else:
            four_bf16(b + 2 * at, h, h_row, rank, scale, to, y_row, left)

    @device
    def cells(record: Ptr) -> Int:
        """Cells of columns in a part; a place without factors has none."""
        return s.idiv(s.get_i64(record + table.ROWS) + table.CELL - 1, table.CELL)

    @device
    def row_of_parts(
        rows: Int, records: Ptr, parts: Int, place: Int, of: Int,
        h: Ptr, h_row: Int, wide: Int, y: Ptr, y_row: Int,
    ) -> None:  # fmt: skip
        """This thread's share of all parts' columns, for one row or for four."""
        every, before = 0, 0
        for part in range(parts):
            every += cells(records + part * table.PART_BYTES)
        first, last = share(place, of, every), share(place + 1, of, every)
        for part in range(parts):
            record = records + part * table.PART_BYTES
            count = cells(record)
            for cell in range(s.larger(first - before, 0), s.smaller(last - before, count)):
                some(rows, record, cell, h + 4 * part * wide, h_row, y, y_row)
            before += count

    def run(
        step: Ptr, tid: Int, nt: Int,
        h: Ptr, h_stride: Int, y: Ptr, y_stride: Int, wide: Int, parts: Int, entries: Ptr,
    ) -> None:  # fmt: skip
        """h: what `adapt.down` wrote."""
        n, slots = s.get_i64(step + header.N), s.get_i64(step + header.ADAPTERS)
        begin, end, place, of = sharing(tid, nt, s.idiv(n + ROWS - 1, ROWS))
        for tile in range(begin, end):
            t = ROWS * tile
            count, last = 1, s.smaller(t + ROWS, n)
            if alike(slots, t, n) == 1:
                count, last = ROWS, t + 1
            for row in range(t, last):
                slot = s.get_i64(slots + 8 * row)
                if slot > 0:
                    records = entries + slot * parts * table.PART_BYTES
                    source, to = h + 4 * row * h_stride, y + 4 * row * y_stride
                    row_of_parts(
                        count, records, parts, place, of,
                        source, 4 * h_stride, wide, to, 4 * y_stride,
                    )  # fmt: skip

    return run


def build(variant: str) -> Kernel:
    """`adapt.down` or `adapt.up`; entries: a site's table (`shared/adapter_table.py`)."""
    return kernel(f"adapt.{variant}")(_down() if variant == "down" else _up())
