"""Matrix products: y[token, row] = sum over columns of w[row, column] x[token, column].

Variants: `linear.<held>`, or `linear.<held>-<form>` for forms of activations (`forms.py`) other
than the format's own. A tile is one group of 16 rows and up to 8 tokens, or 4 or 2 groups and one
token. How weights are read is an argument, because processors differ (`reading.py`): with one token
4 groups at once or one after another, and which weights are prefetched during the work on these.
With AMX, products of packed weights take 16 tokens at a time in tile registers (`amx_loops.py`),
and the rest here; with AVX-512 VNNI alone, many tokens by some formats go by `panels.py`, with AVX2
and no VNNI 8 tokens and more by `panels_avx2.py`, and with AMX-BF16 all products of bfloat16 by
`amx_bf16.py`. Every (row, token) sums its blocks in ascending order, whichever tile it is in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.kernels.product import (
    amx,
    amx_bf16,
    amx_loops,
    k_steps,
    panel_layout_avx2,
    panels,
    panels_avx2,
    steps,
)
from rbee_worker.ops.cpu.kernels.shares import claim
from rbee_worker.ops.cpu.shared.forms import BYTES, NATIVE, TILES, TOKENS, UNITS, at_once, parse
from rbee_worker.ops.cpu.shared.held import HELD
from rbee_worker.ops.cpu.shared.isa import BF16, TILES_BF16
from rbee_worker.ops.cpu.shared.pieces import FEW, MANY, TILED
from rbee_worker.ops.cpu.shared.reading import NEXT

CACHE = 1 << 19  # bytes of activations that stay in the second-level cache from group to group


def _steps(name: str, form: str) -> tuple[Any, int, int, int]:
    """The module whose steps a product uses, how many steps make a unit, and by how many bytes each
    advances weights and activations."""
    cells, taken = HELD[name].columns // 32, at_once(form)
    inner: Any = k_steps if form in UNITS else steps
    return inner, cells // taken, HELD[name].nbytes // cells * taken, TOKENS * BYTES[form] * taken


def _tile(tokens: int, name: str, form: str) -> Callable[..., None]:
    """A device function (w, units, x, y, stride, bias, rows, ahead): `tokens` tokens by 16 rows.
    It prefetches `ahead` bytes further on, or the next group if that is NEXT."""
    unit = HELD[name].nbytes
    inner, count, w_step, x_step = _steps(name, form)
    zeros, step, put = steps.zeros(tokens), inner.step(tokens, name, form), steps.put(tokens)

    @device
    def run(
        w: Ptr, units: Int, x: Ptr, y: Ptr, stride: Int, bias: Ptr, rows: Int, ahead: Int
    ) -> None:
        sums = zeros()
        other = w + (units * unit if ahead == NEXT else ahead)
        for _ in range(units):
            for j in range(count):
                sums = step(sums, x, w, j, other)
                other += w_step
                x += x_step
            w += unit
        put(sums, y, stride, bias, rows)

    return run


def _wide(groups: int, name: str, form: str) -> Callable[..., None]:
    """A device function (w, units, x, y, bias, after, ahead): one token by `groups` whole groups of
    rows.

    It prefetches `ahead` bytes further on in each group; near the end, the beginning of the next
    `groups` groups, if at least so many come `after`.
    """
    unit = HELD[name].nbytes
    inner, count, w_step, x_step = _steps(name, form)
    zeros, step = steps.zeros(groups), inner.wide(groups, name, form)
    put = steps.put_wide(groups)

    @device
    def run(w: Ptr, units: Int, x: Ptr, y: Ptr, bias: Ptr, after: Int, ahead: Int) -> None:
        sums = zeros()
        group_step = units * unit
        left, end = group_step - ahead, ahead + (groups - 1) * group_step if after >= groups else 0
        for _ in range(units):
            for j in range(count):
                far = ahead if left > 0 else end
                sums = step(sums, x, w, group_step, j, far)
                left -= w_step
                x += x_step
            w += unit
        put(sums, y, bias)

    return run


def product(name: str, form: str, tiled: bool = False) -> Callable[..., None]:
    """A device function (w, first, last, x, n, y, stride, bias, cols, rows, token, streams, near,
    far): groups first .. last - 1 of a matrix of `rows` rows times n tokens, each of which has
    `token` bytes of prepared activations; the last three are a `Reading`. tiled: bfloat16 on tiles,
    where the target has them."""
    columns, unit = HELD[name].columns, HELD[name].nbytes
    size = BYTES[form]
    tile8, tile4, tile2, tile1 = (_tile(t, name, form) for t in (8, 4, 2, 1))
    wide4, wide2 = (_wide(g, name, form) for g in (4, 2))
    suits = amx.suits(name, form)
    sixteens: Any = amx_loops.product(name, form) if suits else None
    unpacked = panels.suits(name, form)
    many: Any = panels.product(name, form) if unpacked else None
    in_strips = panel_layout_avx2.suits(name, form)
    strips: Any = panels_avx2.product(name, form) if in_strips else None
    eights = panels_avx2.leaves_eights(in_strips)
    bf16: Any = amx_bf16.product() if tiled else None

    @device
    def run(
        w: Ptr, first: Int, last: Int, x: Ptr, n: Int, y: Ptr, stride: Int, bias: Ptr, cols: Int,
        rows: Int, token: Int, streams: Int, near: Int, far: Int,
    ) -> None:  # fmt: skip
        units = s.idiv(cols + columns - 1, columns)
        chunk = s.larger(8, s.idiv(s.idiv(CACHE, token), 8) * 8)
        done = 0
        if suits and amx.available() and n >= amx.TOKENS:
            done = n & -amx.TOKENS
            sixteens(w, first, last, x, done, y, stride, bias, units, rows, token, chunk)
        if unpacked and panels.available() and n >= panels.FEWEST:
            done = n
            many(w, first, last, x, n, y, stride, bias, units, rows, token)
        if in_strips and panels_avx2.available() and n >= panels_avx2.FEWEST:
            done = n
            strips(w, first, last, x, n, y, stride, bias, units, rows, token)
        if tiled and amx_bf16.available():
            done = n
            bf16(
                w, first, last, x, n, y, stride, bias, units, rows, token, streams, near, far, chunk
            )  # fmt: skip
        for start in range(done, n, chunk):
            stop, low, ahead = s.smaller(start + chunk, n), first, far
            if stop - start == 1:
                ahead = near
            if stop - start == 1 and streams == 4:
                p = x + start * token
                while low + 4 <= last and 16 * (low + 4) <= rows:
                    b = bias + 64 * low if bias != 0 else 0
                    out = y + 64 * low + 4 * start * stride
                    low += 4
                    wide4(w + (low - 4) * units * unit, units, p, out, b, last - low, near)
                if low + 2 <= last and 16 * (low + 2) <= rows:
                    b = bias + 64 * low if bias != 0 else 0
                    out = y + 64 * low + 4 * start * stride
                    wide2(w + low * units * unit, units, p, out, b, 0, near)
                    low += 2
            for g in range(low, last):
                wg, left = w + g * units * unit, rows - 16 * g
                out = y + 64 * g
                b = bias + 64 * g if bias != 0 else 0
                t = start
                if eights():  # else panels take so many, which LLVM does not always find out
                    while t + 8 <= stop:
                        p = x + t * token
                        tile8(wg, units, p, out + 4 * t * stride, stride, b, left, ahead)
                        t += 8
                p = x + t * token
                if t + 4 <= stop:
                    tile4(wg, units, p, out + 4 * t * stride, stride, b, left, ahead)
                    t += 4
                    p += 4 * size
                if t + 2 <= stop:
                    tile2(wg, units, p, out + 4 * t * stride, stride, b, left, ahead)
                    t += 2
                    p += 2 * size
                if t < stop:
                    tile1(wg, units, p, out + 4 * t * stride, stride, b, left, ahead)

    return run


def build(variant: str) -> Kernel:
    """A product kernel. w: held units; x: prepared activations; y: the first column of the result,
    whose rows are `stride` floats apart; bias: 0, or the address of floats, padded to 16; count:
    the header slot of the number of tokens; streams, near, far: see `reading.py`; ticket, few,
    many: how the last groups are shared, see `pieces.py`."""
    held, form = parse(variant)
    tiled = variant.endswith(TILES)
    columns, times = held.columns, product(held.name, form, tiled)
    size = BYTES[form]

    def run(
        step: Ptr, tid: Int, nt: Int,
        w: Ptr, x: Ptr, y: Ptr, bias: Ptr, cols: Int, rows: Int, stride: Int, count: Int,
        streams: Int, near: Int, far: Int, ticket: Ptr, few: Int, many: Int,
    ) -> None:  # fmt: skip
        n, groups = s.get_i64(step + 8 * count), s.idiv(rows + 15, 16)
        token = s.idiv(columns, 32) * s.idiv(cols + columns - 1, columns) * size
        pieces, piece = few, FEW.size
        if n >= TILED:
            pieces, piece = many, MANY.size
        early = groups - pieces * piece
        first, last = s.idiv(tid * early, nt), s.idiv((tid + 1) * early, nt)
        claimed = -1
        while claimed < pieces:
            times(
                w, first, last, x, n, y, stride, bias, cols, rows, token, streams, near, far
            )  # fmt: skip
            claimed = claim(ticket, pieces, nt) if pieces > 0 else 0
            first = early + claimed * piece
            last = first + piece

    also = {NATIVE: (BF16,), TILES: (BF16, TILES_BF16)}.get(variant[variant.rfind("-") :], ())
    return kernel(f"linear.{variant}", also=also)(run)
