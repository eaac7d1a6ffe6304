"""Low-rank adapters: h = A x for each row and part of a site, then y += scale * B h.

Each row's adapter is in the step's header; a row without one costs a look at its number. Neighbours
that use one adapter are a tile (`tiles.py`). Threads share rows, or, of few rows, the cells of A
and B; no result depends on that. Factors are read in the adapter's own form, in the order in which
they lie in memory. Nothing is prefetched: the processor does that, and hints slowed it.
"""

from __future__ import annotations

from collections.abc import Callable

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.kernels.adapters.tiles import LOADS, ROWS, down_tiles, up_tiles
from rbee_worker.ops.cpu.kernels.shares import share
from rbee_worker.ops.cpu.shared import adapter_table as table
from rbee_worker.ops.cpu.shared import step as header

MANY = 4  # tiles of rows for each thread from which threads share rows, not ranks and columns


@device
def together(slots: Ptr, row: Int, end: Int) -> Int:
    """How many rows from `row` on are one tile: ROWS if they use one adapter, else 1."""
    if row + ROWS > end:
        return 1
    first = s.get_i64(slots + 8 * row)
    for k in range(1, ROWS):
        if s.get_i64(slots + 8 * (row + k)) != first:
            return 1
    return ROWS


@device
def sharing(tid: Int, nt: Int, n: Int) -> tuple[Int, Int, Int, Int]:
    """Which of a step's n rows are this thread's, first .. last, and which share of the work in
    each tile: the place'th of `of`."""
    tiles = s.idiv(n + ROWS - 1, ROWS)
    if tiles >= MANY * nt:
        return ROWS * share(tid, nt, tiles), s.smaller(ROWS * share(tid + 1, nt, tiles), n), 0, 1
    return 0, n, tid, nt


def _down() -> Callable[..., None]:
    f32, f16, bf16 = (down_tiles(load, size) for load, size in LOADS)

    @device
    def cell(
        rows: Int, record: Ptr, k: Int, x: Ptr, x_row: Int, cols: Int, h: Ptr, h_row: Int
    ) -> None:
        """Ranks k .. k + 3 of a tile's rows."""
        a, form = s.get_i64(record + table.A), s.get_i64(record + table.FORM)
        at = k * s.idiv(cols + 15, 16) * 16
        if form == 0:
            f32(rows, a + 4 * at, x, x_row, cols, h, h_row)
        elif form == 1:
            f16(rows, a + 2 * at, x, x_row, cols, h, h_row)
        else:
            bf16(rows, a + 2 * at, x, x_row, cols, h, h_row)

    @device
    def cells(record: Ptr) -> Int:
        """Cells of ranks in a part."""
        return s.idiv(s.get_i64(record + table.RANK) + table.RANKS - 1, table.RANKS)

    @device
    def tile(
        rows: Int, records: Ptr, parts: Int, place: Int, of: Int,
        x: Ptr, x_row: Int, cols: Int, h: Ptr, h_row: Int, wide: Int,
    ) -> None:  # fmt: skip
        """This thread's share of all parts' ranks."""
        every, before = 0, 0
        for part in range(parts):
            every += cells(records + part * table.PART_BYTES)
        first, last = share(place, of, every), share(place + 1, of, every)
        for part in range(parts):
            record = records + part * table.PART_BYTES
            count = cells(record)
            for c in range(s.larger(first - before, 0), s.smaller(last - before, count)):
                k = table.RANKS * c
                cell(rows, record, k, x, x_row, cols, h + 4 * (part * wide + k), h_row)
            before += count

    def run(
        step: Ptr, tid: Int, nt: Int,
        x: Ptr, x_stride: Int, cols: Int, h: Ptr, h_stride: Int, wide: Int, parts: Int,
        entries: Ptr,
    ) -> None:  # fmt: skip
        """h: the ranks of every part, `wide` numbers of a row each."""
        n, slots = s.get_i64(step + header.N), s.get_i64(step + header.ADAPTERS)
        row, end, place, of = sharing(tid, nt, n)
        while row < end:
            rows, slot = together(slots, row, end), s.get_i64(slots + 8 * row)
            if slot > 0:
                records = entries + slot * parts * table.PART_BYTES
                source, to = x + 4 * row * x_stride, h + 4 * row * h_stride
                tile(
                    rows, records, parts, place, of,
                    source, 4 * x_stride, cols, to, 4 * h_stride, wide,
                )  # fmt: skip
            row += rows

    return run


def _up() -> Callable[..., None]:
    f32, f16, bf16 = (up_tiles(load, size) for load, size in LOADS)

    @device
    def cell(rows: Int, record: Ptr, c: Int, h: Ptr, h_row: Int, y: Ptr, y_row: Int) -> None:
        """Cell c of a tile's rows."""
        b, rank = s.get_i64(record + table.B), s.get_i64(record + table.RANK)
        form, scale = s.get_i64(record + table.FORM), s.bits_f32(s.get_i64(record + table.SCALE))
        at, left = c * rank * table.CELL, s.get_i64(record + table.ROWS) - c * table.CELL
        to = y + 4 * (s.get_i64(record + table.FIRST) + c * table.CELL)
        if form == 0:
            f32(rows, b + 4 * at, h, h_row, rank, scale, to, y_row, left)
        elif form == 1:
            f16(rows, b + 2 * at, h, h_row, rank, scale, to, y_row, left)
        else:
            bf16(rows, b + 2 * at, h, h_row, rank, scale, to, y_row, left)

    @device
    def cells(record: Ptr) -> Int:
        """Cells of columns in a part; a place without factors has none."""
        return s.idiv(s.get_i64(record + table.ROWS) + table.CELL - 1, table.CELL)

    @device
    def tile(
        rows: Int, records: Ptr, parts: Int, place: Int, of: Int,
        h: Ptr, h_row: Int, wide: Int, y: Ptr, y_row: Int,
    ) -> None:  # fmt: skip
        """This thread's share of all parts' columns."""
        every, before = 0, 0
        for part in range(parts):
            every += cells(records + part * table.PART_BYTES)
        first, last = share(place, of, every), share(place + 1, of, every)
        for part in range(parts):
            record = records + part * table.PART_BYTES
            count = cells(record)
            for c in range(s.larger(first - before, 0), s.smaller(last - before, count)):
                cell(rows, record, c, h + 4 * part * wide, h_row, y, y_row)
            before += count

    def run(
        step: Ptr, tid: Int, nt: Int,
        h: Ptr, h_stride: Int, y: Ptr, y_stride: Int, wide: Int, parts: Int, entries: Ptr,
    ) -> None:  # fmt: skip
        """h: what `adapt.down` wrote."""
        n, slots = s.get_i64(step + header.N), s.get_i64(step + header.ADAPTERS)
        row, end, place, of = sharing(tid, nt, n)
        while row < end:
            rows, slot = together(slots, row, end), s.get_i64(slots + 8 * row)
            if slot > 0:
                records = entries + slot * parts * table.PART_BYTES
                source, to = h + 4 * row * h_stride, y + 4 * row * y_stride
                tile(
                    rows, records, parts, place, of,
                    source, 4 * h_stride, wide, to, 4 * y_stride,
                )  # fmt: skip
            row += rows

    return run


def build(variant: str) -> Kernel:
    """`adapt.down` or `adapt.up`; entries: a site's table (`shared/adapter_table.py`)."""
    return kernel(f"adapt.{variant}")(_down() if variant == "down" else _up())
