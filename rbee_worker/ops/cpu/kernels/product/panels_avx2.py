"""Products with 8 tokens and more on AVX2 without VNNI: weights are unpacked once for all tokens.

Such processors have 16 registers, so tiles are small; unpacking weights in each of them would take
as many instructions as multiplying. A strip of 16 rows and 256 columns is unpacked into a panel,
which stays in the first-level cache while up to `MOST` tokens are multiplied by it, `TILE` at a
time. Between two strips of a row, the sums of a few groups of rows are kept in memory.
`panel_layout_avx2.py` describes panels; results are bitwise those of the tiles in `linear.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, op
from rbee_worker.ops.cpu.kernels.product import k_steps
from rbee_worker.ops.cpu.kernels.product.panel_layout_avx2 import (
    BLOCKS,
    TILE,
    VECTOR,
    Layout,
    begin,
    unpack,
)
from rbee_worker.ops.cpu.kernels.product.panel_steps_avx2 import LEAST, step
from rbee_worker.ops.cpu.kernels.product.panels import clear, put
from rbee_worker.ops.cpu.shared.forms import BYTES, TOKENS
from rbee_worker.ops.cpu.shared.held import HELD
from rbee_worker.ops.cpu.shared.isa import dot_of

FEWEST = LEAST * TILE  # tokens; with fewer, unpacking costs what is gained
MOST = 64  # tokens of a panel: unpacking is then a thirtieth of the time
AHEAD = 2  # strips from one that is unpacked to the one that is prefetched meanwhile
GROUPS = 16  # groups of 16 rows whose sums are kept at a time

# A constant while a kernel is translated.
available = op(Int, target=True)(lambda b, target: dot_of(target) == "maddubs")


def leaves_eights(has_panels: bool) -> Any:
    """Such a constant: whether a product, which has panels or not, takes 8 tokens without them."""
    return op(Int, target=True)(lambda b, target: not (has_panels and dot_of(target) == "maddubs"))


def _groups(name: str, form: str) -> Callable[..., None]:
    """A device function (w, units, x, n, token, y, stride, bias, rows, groups, panel, given,
    sums): n tokens times up to `GROUPS` groups of rows. The last three are scratch."""
    unit, cells = HELD[name].nbytes, HELD[name].columns // 32
    per, size = BLOCKS // cells, BYTES[form]  # units of a strip
    strip, x_step = per * unit, BLOCKS * k_steps.block_step(form)
    start, unpack_strip, add = begin(name, form), unpack(name, form), step(name, form)
    given_step, planes = Layout(name, form).given, len(k_steps.planes(form))

    @device
    def place(x: Ptr, token: Int, tile: Int) -> Ptr:
        """The first token of a tile."""
        return x + (tile >> 1) * TOKENS * token + (tile & 1) * TILE * size

    @device
    def over_tokens(
        tiles: Int, x: Ptr, token: Int, panel: Ptr, given: Ptr, sums: Ptr, blocks: Int, other: Ptr
    ) -> None:
        """All tokens by a panel. Meanwhile the strip at `other` is prefetched, evenly: many lines
        asked for at once delay what is being loaded."""
        turns = tiles * blocks * planes
        each = s.idiv(strip + turns - 1, turns)
        for tile in range(tiles):
            add(sums, place(x, token, tile), given, panel, blocks, other, each)
            other += each * blocks * planes
            given += given_step
            sums += TILE * VECTOR

    @device
    def run(
        w: Ptr, units: Int, x: Ptr, n: Int, token: Int, y: Ptr, stride: Int, bias: Ptr, rows: Int,
        groups: Int, panel: Ptr, given: Ptr, sums: Ptr,
    ) -> None:  # fmt: skip
        tiles = s.idiv(n + TILE - 1, TILE)  # of the last one, some tokens may not be used
        sums_step = tiles * TILE * VECTOR
        clear(sums, groups * tiles * TILE)
        for u in range(0, units, per):
            blocks = s.smaller(per, units - u) * cells
            for tile in range(tiles):
                start(place(x, token, tile), given + tile * given_step, blocks)
            for g in range(groups):
                unpack_strip(w + (g * units + u) * unit, panel, blocks)
                later = s.imod(g + AHEAD, groups) * units + u + s.idiv(g + AHEAD, groups) * per
                other = w + later * unit
                over_tokens(tiles, x, token, panel, given, sums + g * sums_step, blocks, other)
            x += x_step
        for t in range(n):
            put(sums + VECTOR * t, sums_step, groups, y + 4 * t * stride, bias, rows)

    return run


def product(name: str, form: str) -> Callable[..., None]:
    """A device function (w, first, last, x, n, y, stride, bias, units, rows, token), as
    `linear.product`. A row has `units` units."""
    unit, layout = HELD[name].nbytes, Layout(name, form)
    groups = _groups(name, form)
    panel_memory = s.memory(layout.nbytes)
    given_memory = s.memory(MOST // TILE * max(layout.given, 1))
    sums_memory = s.memory(VECTOR * GROUPS * MOST)

    @device
    def run(
        w: Ptr, first: Int, last: Int, x: Ptr, n: Int, y: Ptr, stride: Int, bias: Ptr, units: Int,
        rows: Int, token: Int,
    ) -> None:  # fmt: skip
        panel, given, sums = panel_memory(), given_memory(), sums_memory()
        for start in range(0, n, MOST):
            for g in range(first, last, GROUPS):
                groups(
                    w + g * units * unit, units, x + start * token, s.smaller(n - start, MOST),
                    token, y + 64 * g + 4 * start * stride, stride,
                    bias + 64 * g if bias != 0 else 0, rows - 16 * g,
                    s.smaller(GROUPS, last - g), panel, given, sums,
                )  # fmt: skip

    return run
