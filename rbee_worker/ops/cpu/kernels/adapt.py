"""Low-rank adapters: h = A x for each row and part of a site, then y += scale * B h.

Each row's adapter is in the step's header; a row without one costs a look at its number. Sums go
through columns and ranks in ascending order, so a row's result does not depend on the others, nor
on how threads share the work. Both factors are read in the adapter's own form.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.shared import adapter_table as table
from rbee_worker.ops.cpu.shared import step as header

CELL = 64  # columns of y that a thread computes together


def _dots(load: Any, size: int) -> Callable[..., None]:
    """A device function (a, stride, x, cols, h): four rows of A, `stride` numbers apart, times the
    `cols` numbers at x, into the four floats at h. Behind `cols`, A has zeros up to a whole
    vector."""

    @device
    def run(a: Ptr, stride: Int, x: Ptr, cols: Int, h: Ptr) -> None:
        s0, s1, s2, s3 = s.zeros(), s.zeros(), s.zeros(), s.zeros()
        row = size * stride
        for i in range(0, cols, 16):
            v, p = load_upto(x + 4 * i, cols - i), a + size * i
            s0 = s.fma(v, load(p), s0)
            s1 = s.fma(v, load(p + row), s1)
            s2 = s.fma(v, load(p + 2 * row), s2)
            s3 = s.fma(v, load(p + 3 * row), s3)
        s.set_f32(h, s.total(s0))
        s.set_f32(h + 4, s.total(s1))
        s.set_f32(h + 8, s.total(s2))
        s.set_f32(h + 12, s.total(s3))

    return run


def _add(load: Any, size: int) -> Callable[..., None]:
    """A device function (b, stride, h, rank, scale, y, left): adds scale times `rank` rows of B
    transposed, weighed by h, to the `left` columns at y, at most `CELL` of them."""

    @device
    def run(b: Ptr, stride: Int, h: Ptr, rank: Int, scale: s.Float, y: Ptr, left: Int) -> None:
        row, times = size * stride, s.fill(scale)
        if left >= 64:
            s0, s1, s2, s3 = s.zeros(), s.zeros(), s.zeros(), s.zeros()
            p = b
            for k in range(rank):
                v = s.splat_f32(h + 4 * k)
                s0 = s.fma(v, load(p), s0)
                s1 = s.fma(v, load(p + 16 * size), s1)
                s2 = s.fma(v, load(p + 32 * size), s2)
                s3 = s.fma(v, load(p + 48 * size), s3)
                p += row
            s.store_f32(y, s.fma(s0, times, s.load_f32(y)))
            s.store_f32(y + 64, s.fma(s1, times, s.load_f32(y + 64)))
            s.store_f32(y + 128, s.fma(s2, times, s.load_f32(y + 128)))
            s.store_f32(y + 192, s.fma(s3, times, s.load_f32(y + 192)))
        else:
            for i in range(0, left, 16):
                total = s.zeros()
                q = b + size * i
                for k in range(rank):
                    total = s.fma(s.splat_f32(h + 4 * k), load(q), total)
                    q += row
                to = y + 4 * i
                sum_ = s.fma(total, times, load_upto(to, left - i))
                store_upto(to, sum_, left - i)

    return run


_LOADS = ((s.load_f32, 4), (s.load_f16, 2), (s.load_bf16, 2))  # in the order of `table.FORMS`


def _down() -> Callable[..., None]:
    dots_f32, dots_f16, dots_bf16 = (_dots(load, size) for load, size in _LOADS)

    def run(
        step: Ptr, tid: Int, nt: Int,
        x: Ptr, x_stride: Int, cols: Int, h: Ptr, h_stride: Int, wide: Int, parts: Int,
        entries: Ptr,
    ) -> None:  # fmt: skip
        """Threads take (row, part, four ranks) in turn: where ranks are low, the first of each part
        are all that there is to do."""
        n, slots = s.get_i64(step + header.N), s.get_i64(step + header.ADAPTERS)
        fours = s.idiv(wide, table.RANKS)
        each = fours * parts
        stride = s.idiv(cols + 15, 16) * 16
        for turn in range(s.idiv(n * each + nt - 1 - tid, nt)):
            item = tid + turn * nt
            t, rest = s.idiv(item, each), s.imod(item, each)
            slot = s.get_i64(slots + 8 * t)
            if slot > 0:
                part, k = s.idiv(rest, fours), 4 * s.imod(rest, fours)
                record = entries + (slot * parts + part) * table.PART_BYTES
                a = s.get_i64(record + table.A)
                if a != 0 and k < s.get_i64(record + table.RANK):
                    source = x + 4 * t * x_stride
                    to = h + 4 * (t * h_stride + part * wide + k)
                    form = s.get_i64(record + table.FORM)
                    if form == 0:
                        dots_f32(a + 4 * k * stride, stride, source, cols, to)
                    elif form == 1:
                        dots_f16(a + 2 * k * stride, stride, source, cols, to)
                    else:
                        dots_bf16(a + 2 * k * stride, stride, source, cols, to)

    return run


def _up() -> Callable[..., None]:
    add_f32, add_f16, add_bf16 = (_add(load, size) for load, size in _LOADS)

    def run(
        step: Ptr, tid: Int, nt: Int,
        h: Ptr, h_stride: Int, y: Ptr, y_stride: Int, rows: Int, part: Int, parts: Int,
        entries: Ptr,
    ) -> None:  # fmt: skip
        """One part of a site: threads share (row, cell of columns). y: the part's first column."""
        n, slots = s.get_i64(step + header.N), s.get_i64(step + header.ADAPTERS)
        cells = s.idiv(rows + CELL - 1, CELL)
        stride = s.idiv(rows + 15, 16) * 16
        for item in range(share(tid, nt, n * cells), share(tid + 1, nt, n * cells)):
            t, c = s.idiv(item, cells), s.imod(item, cells) * CELL
            slot = s.get_i64(slots + 8 * t)
            if slot > 0:
                record = entries + (slot * parts + part) * table.PART_BYTES
                b = s.get_i64(record + table.B)
                if b != 0:
                    rank = s.get_i64(record + table.RANK)
                    scale = s.bits_f32(s.get_i64(record + table.SCALE))
                    source, to = h + 4 * t * h_stride, y + 4 * (t * y_stride + c)
                    form = s.get_i64(record + table.FORM)
                    if form == 0:
                        add_f32(b + 4 * c, stride, source, rank, scale, to, rows - c)
                    elif form == 1:
                        add_f16(b + 2 * c, stride, source, rank, scale, to, rows - c)
                    else:
                        add_bf16(b + 2 * c, stride, source, rank, scale, to, rows - c)

    return run


def build(variant: str) -> Kernel:
    """`adapt.down` or `adapt.up`; entries: a site's table (`shared/adapter_table.py`)."""
    return kernel(f"adapt.{variant}")(_down() if variant == "down" else _up())
