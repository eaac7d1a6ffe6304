"""Products of K formats with many tokens on AVX-512 VNNI: weights are unpacked once for all tokens.

A unit of 16 rows is unpacked into a panel, which stays in the first-level cache while up to `MOST`
tokens are multiplied by it. Between two units of a row, the sums of a few groups of rows are kept
in memory; they and the tokens' activations of one unit stay in the second-level cache.
`panel_steps.py` describes panels; results are bitwise those of the tiles in `linear.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, op
from rbee_worker.ops.cpu.kernels.product import k_steps
from rbee_worker.ops.cpu.kernels.product.blocks import BLOCKS
from rbee_worker.ops.cpu.kernels.product.panel_steps import (
    VECTOR,
    panel_of,
    starts,
    starts_bytes,
    step,
    unpack,
)
from rbee_worker.ops.cpu.kernels.shares import store_upto
from rbee_worker.ops.cpu.shared.forms import TOKENS, UNITS
from rbee_worker.ops.cpu.shared.held import HELD
from rbee_worker.ops.cpu.shared.isa import dot_of

FEWEST = 32  # tokens; with fewer, unpacking and keeping sums cost what is gained
MOST = 128  # tokens of a panel: unpacking is then a fiftieth of the time
GROUPS = 16  # groups of 16 rows whose sums are kept at a time
LINE = 64


def suits(name: str, form: str) -> bool:
    """Whether products of this kind use panels: those whose scales change after 16 columns. Others
    multiply by scales half as often and were measured to gain 2 %."""
    return form in UNITS and BLOCKS[name][1].halves


# A constant while a kernel is translated. Other processors have too few registers, or tiles.
available = op(Int, target=True)(
    lambda b, target: dot_of(target) == "vnni512" and "+amx-int8" not in target.split(",")
)


@device
def clear(p: Ptr, vectors: Int) -> None:
    for n in range(vectors):
        s.store_f32(p + VECTOR * n, s.zeros())


@device
def put(sums: Ptr, each: Int, groups: Int, y: Ptr, bias: Ptr, rows: Int) -> None:
    """Write a token's results of all groups, `each` bytes apart."""
    for g in range(groups):
        v = s.load_f32(sums + g * each)
        if bias != 0:
            v = s.add(v, s.load_f32(bias + 64 * g))
        store_upto(y + 64 * g, v, rows - 16 * g)


def _groups(name: str, form: str) -> Callable[..., None]:
    """A device function (w, units, x, n, token, y, stride, bias, rows, groups, panel, begun,
    sums): n tokens times up to `GROUPS` groups of rows. The last three are scratch."""
    unit = HELD[name].nbytes
    lines, x_step = -(-unit // LINE), k_steps.CELLS * k_steps.block_step(form)
    unpack_unit, begin, add = unpack(name), starts(name, form), step(name, form)
    starts_step = starts_bytes(form)

    @device
    def over_tokens(
        tiles: Int, x: Ptr, token: Int, panel: Ptr, begun: Ptr, sums: Ptr, other: Ptr, each: Int
    ) -> None:
        """All tokens by a panel. Meanwhile `each` lines a tile from `other` on are prefetched."""
        for _ in range(tiles):
            for line in range(each):
                s.prefetch(other + LINE * line)
            add(sums, x, begun, panel)
            other += LINE * each
            begun += starts_step
            x += TOKENS * token
            sums += TOKENS * VECTOR

    @device
    def run(
        w: Ptr, units: Int, x: Ptr, n: Int, token: Int, y: Ptr, stride: Int, bias: Ptr, rows: Int,
        groups: Int, panel: Ptr, begun: Ptr, sums: Ptr,
    ) -> None:  # fmt: skip
        tiles = s.idiv(n + TOKENS - 1, TOKENS)  # of the last one, some tokens may not be used
        each, sums_step = s.idiv(lines + tiles - 1, tiles), tiles * TOKENS * VECTOR
        clear(sums, groups * tiles * TOKENS)
        for u in range(units):
            for tile in range(tiles):
                begin(x + tile * TOKENS * token, begun + tile * starts_step)
            for g in range(groups):
                unpack_unit(w + (g * units + u) * unit, panel)
                other = w + ((g + 1) * units + u) * unit  # the unit that is unpacked next
                if g + 1 == groups:
                    other = w + (u + 1) * unit
                over_tokens(tiles, x, token, panel, begun, sums + g * sums_step, other, each)
            x += x_step
        for t in range(n):
            put(sums + VECTOR * t, sums_step, groups, y + 4 * t * stride, bias, rows)

    return run


def product(name: str, form: str) -> Callable[..., None]:
    """A device function (w, first, last, x, n, y, stride, bias, units, rows, token), as
    `linear.product`. A row has `units` units."""
    unit = HELD[name].nbytes
    groups = _groups(name, form)
    panel_memory = s.memory(panel_of(name).nbytes)
    starts_memory = s.memory(MOST // TOKENS * starts_bytes(form))
    sums_memory = s.memory(VECTOR * GROUPS * MOST)

    @device
    def run(
        w: Ptr, first: Int, last: Int, x: Ptr, n: Int, y: Ptr, stride: Int, bias: Ptr, units: Int,
        rows: Int, token: Int,
    ) -> None:  # fmt: skip
        panel, begun, sums = panel_memory(), starts_memory(), sums_memory()
        for start in range(0, n, MOST):
            for g in range(first, last, GROUPS):
                groups(
                    w + g * units * unit, units, x + start * token, s.smaller(n - start, MOST),
                    token, y + 64 * g + 4 * start * stride, stride,
                    bias + 64 * g if bias != 0 else 0, rows - 16 * g,
                    s.smaller(GROUPS, last - g), panel, begun, sums,
                )  # fmt: skip

    return run
