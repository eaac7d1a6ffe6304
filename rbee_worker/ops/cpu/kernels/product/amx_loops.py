"""Products of packed weights with 16 tokens at a time on tile registers: loops around `amx.py`.

For a few groups of rows, a slice of their columns is unpacked into a panel. The panel stays in the
first two caches while all tokens are multiplied by it. Activations are gathered once for all
groups, and each group takes the slice's blocks in ascending order. Between slices, sums are kept in
memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.kernels.product import amx, amx_units, steps
from rbee_worker.ops.cpu.kernels.product.amx import TOKENS
from rbee_worker.ops.cpu.kernels.shares import store_upto
from rbee_worker.ops.cpu.shared.forms import UNITS
from rbee_worker.ops.cpu.shared.held import HELD


@device
def _expect(y: Ptr, stride: Int) -> None:
    """Prefetch the lines that `_put` will write; it writes faster than memory delivers them."""
    for t in range(TOKENS):
        s.prefetch(y + 4 * t * stride)


@device
def _put(sums: Ptr, y: Ptr, stride: Int, bias: Ptr, rows: Int) -> None:
    """Write a group's results: min(rows, 16) of each token."""
    for t in range(TOKENS):
        v = s.load_f32(sums + 64 * t)
        if bias != 0:
            v = s.add(v, s.load_f32(bias))
        store_upto(y + 4 * t * stride, v, rows)


def _tiles(form: str) -> Any:
    """The module with a form's tile instructions, each of which multiplies one held unit."""
    return amx_units if form in UNITS else amx


def _panels(name: str, form: str) -> Callable[..., None]:
    """A device function (w, units, x, n, token, y, stride, bias, rows, groups, panel, given, out,
    sums): n tokens, a multiple of 16, times up to `TileShape.groups` groups of rows. The last four
    are scratch."""
    unit, tiles = HELD[name].nbytes, _tiles(form)
    shape = tiles.tile_shape(name, form)
    x_step, most = shape.x_step, shape.slice
    unpack, gather, multiply = tiles.unpack(name), tiles.gather(shape), tiles.multiply(shape)
    nothing, step = steps.zeros(TOKENS), tiles.step(shape)

    @device
    def fill(w: Ptr, units: Int, first: Int, last: Int, groups: Int, panel: Ptr) -> None:
        for g in range(groups):
            for u in range(first, last):
                unpack(w + (g * units + u) * unit, panel)
                panel += shape.entry_bytes

    @device
    def run(
        w: Ptr, units: Int, x: Ptr, n: Int, token: Int, y: Ptr, stride: Int, bias: Ptr, rows: Int,
        groups: Int, panel: Ptr, given: Ptr, out: Ptr, sums: Ptr,
    ) -> None:  # fmt: skip
        slices = s.idiv(units + most - 1, most)
        for cut in range(slices):
            first, last = s.idiv(cut * units, slices), s.idiv((cut + 1) * units, slices)
            fill(w, units, first, last, groups, panel)
            count, at = last - first, sums
            for t in range(0, n, TOKENS):
                start = x + t * token + first * x_step
                for block in range(count):
                    gather(start + block * x_step, 8 * token, given + block * shape.gathered_bytes)
                a, entry = given, panel
                multiply(a, entry, out)
                for g in range(groups):
                    total, p, to = nothing(), start, y + 4 * t * stride + 64 * g
                    if last == units:
                        _expect(to, stride)
                    if first > 0:
                        total = amx.load_sums(at)
                    for block in range(count):
                        next_a, next_entry = a + shape.gathered_bytes, entry + shape.entry_bytes
                        if block + 1 == count:
                            next_a = given
                            next_entry = next_entry if g + 1 < groups else panel
                        total = step(total, p, 8 * token, entry, out, next_a, next_entry)
                        a, entry = next_a, next_entry
                        p += x_step
                    amx.save_sums(at, total)
                    if last == units:
                        b = bias + 64 * g if bias != 0 else 0
                        _put(at, to, stride, b, rows - 16 * g)
                    at += 64 * TOKENS

    return run


def product(name: str, form: str) -> Callable[..., None]:
    """A device function (w, first, last, x, n, y, stride, bias, units, rows, token, chunk), as
    `linear.product`. n is a multiple of 16, a row has `units` units, and the cache holds `chunk`
    tokens."""
    unit, tiles = HELD[name].nbytes, _tiles(form)
    shape = tiles.tile_shape(name, form)
    panels, configure = _panels(name, form), tiles.configure(shape)
    together, (fewest, most) = shape.groups, shape.tokens
    panel_memory = s.memory(shape.slice * together * shape.entry_bytes)
    given_memory = s.memory(shape.slice * shape.gathered_bytes)
    out_memory = s.memory(shape.result_bytes)
    sums_memory = s.memory(64 * together * most)

    @device
    def run(
        w: Ptr, first: Int, last: Int, x: Ptr, n: Int, y: Ptr, stride: Int, bias: Ptr, units: Int,
        rows: Int, token: Int, chunk: Int,
    ) -> None:  # fmt: skip
        panel, given, out, sums = panel_memory(), given_memory(), out_memory(), sums_memory()
        tokens = s.smaller(most, s.larger(fewest, chunk & -TOKENS))
        configure(out)
        for start in range(0, n, tokens):
            count, p = s.smaller(n - start, tokens), x + start * token
            for g in range(first, last, together):
                panels(
                    w + g * units * unit, units, p, count, token, y + 64 * g + 4 * start * stride,
                    stride, bias + 64 * g if bias != 0 else 0, rows - 16 * g,
                    s.smaller(together, last - g), panel, given, out, sums,
                )  # fmt: skip
        amx.release()

    return run
