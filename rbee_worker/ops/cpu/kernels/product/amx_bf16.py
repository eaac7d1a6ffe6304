"""Intel's AMX for bfloat16: weights and activations of `--bf16-activations` on tile registers.

A held unit of bf16 weights, 32 columns of 16 rows, already is a B tile: vector k holds columns 2k
and 2k + 1 of each row, a lane for each. Prepared activations of 8 tokens, 64 bytes each, are an A
tile of 8 rows. `tdpbf16ps` adds their product to a C tile of 8 tokens by 16 rows of the matrix.

Within a unit the instruction adds up the products of even columns and of odd ones in chains that
begin at zero, then both to the C tile, each sum rounded once, numbers below 2^-126 taken for 0
(Intel's Software Developer's Manual, TDPBF16PS). That is another order than `steps.py` has, so with
these tiles every product goes by them, also that of one token: a row's bits do not depend on the
tokens beside it, but they are not those of a processor without AMX-BF16.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, Void, op
from rbee_worker.ops.cpu.compiler.vec import Pen
from rbee_worker.ops.cpu.kernels.product import amx, steps
from rbee_worker.ops.cpu.kernels.shares import store_upto
from rbee_worker.ops.cpu.shared.forms import B16, B16_TAKES, BYTES, TOKENS
from rbee_worker.ops.cpu.shared.held import HELD
from rbee_worker.ops.cpu.shared.isa import TILES_BF16
from rbee_worker.ops.cpu.shared.reading import NEXT

UNIT = HELD[B16_TAKES].nbytes
TOKEN = BYTES[B16]
TILE = 64 * TOKENS  # bytes of a C tile
SUMS = 4  # C tiles: of so many groups of rows for 8 tokens, or of so many times 8 tokens
_C, _B, _A = 0, 4, 6  # the first of 4, 2 and 2 tile registers

# A constant while a kernel is translated: other targets get no code for the branch it guards.
available = op(Int, target=True)(lambda b, target: f"+{TILES_BF16}" in target.split(","))
configure = amx.configuration([(TOKENS, 64)] * SUMS + [(16, 64)] * 2 + [(TOKENS, TOKEN)] * 2)


def _clear(count: int) -> Any:
    """An operation that sets the first C tiles to zero."""

    def write(b: e.Builder) -> None:
        for n in range(count):
            amx.tile(b, "tilezero", _C + n)

    return op(Void)(write)


def _store(count: int) -> Any:
    """An operation `(out)` that writes the first C tiles, one after another."""

    def write(b: e.Builder, out: e.Value) -> None:
        for n in range(count):
            amx.store_tile(b, _C + n, e.at(b, out, TILE * n))

    return op(Void, Ptr)(write)


def _multiply(groups: int, eights: int) -> Any:
    """An operation `(w, group, x, eight, ahead)`: a unit of each of `groups` groups of rows, which
    are `group` bytes apart, times its columns of each of `eights` times 8 tokens, `eight` bytes
    apart, onto the C tiles. Prefetches what lies `ahead` bytes after each unit."""

    def write(
        b: e.Builder, target: str, w: e.Value, group: e.Value, x: e.Value, eight: e.Value,
        ahead: e.Value,
    ) -> None:  # fmt: skip
        pen = Pen(b, target)
        units, tokens = _apart(b, w, group, groups), _apart(b, x, eight, eights)
        for unit in units:
            steps.prefetch(pen, pen.ref(b.add(unit, ahead)), UNIT)
        if groups == 1:
            amx.load_tile(b, _B, w, 64)
            for n, at in enumerate(tokens):
                amx.load_tile(b, _A + n % 2, at, TOKEN)
                amx.tile(b, "tdpbf16ps", _C + n, _A + n % 2, _B)
        else:
            amx.load_tile(b, _A, x, TOKEN)
            for n, unit in enumerate(units):
                amx.load_tile(b, _B + n % 2, unit, 64)
                amx.tile(b, "tdpbf16ps", _C + n, _A, _B + n % 2)

    return op(Void, Ptr, Int, Ptr, Int, Int, target=True)(write)


def _apart(b: e.Builder, first: e.Value, step: e.Value, count: int) -> list[e.Value]:
    found = [first]
    while len(found) < count:
        found.append(b.add(found[-1], step))
    return found


def _sums(groups: int, eights: int) -> Callable[..., None]:
    """A device function (w, units, x, eight, out, ahead): `_multiply` for whole rows, the sums
    written to `out`."""
    count = groups * eights
    clear, multiply, store = _clear(count), _multiply(groups, eights), _store(count)

    @device
    def run(w: Ptr, units: Int, x: Ptr, eight: Int, out: Ptr, ahead: Int) -> None:
        clear()
        group = units * UNIT
        for _ in range(units):
            multiply(w, group, x, eight, ahead)
            w += UNIT
            x += TOKEN * TOKENS
        store(out)

    return run


@device
def _put(out: Ptr, tokens: Int, y: Ptr, stride: Int, bias: Ptr, rows: Int) -> None:
    """The sums of one group of rows: min(rows, 16) of each token, plus the bias if there is one."""
    for t in range(tokens):
        v = s.load_f32(out + 64 * t)
        if bias != 0:
            v = s.add(v, s.load_f32(bias))
        store_upto(y + 4 * t * stride, v, rows)


def product() -> Callable[..., None]:
    """A device function (w, first, last, x, n, y, stride, bias, units, rows, token, streams, near,
    far, chunk), as `linear.product`. A row has `units` units; the cache holds `chunk` tokens."""
    memory = s.memory(TILE * SUMS)
    wide = _sums(SUMS, 1)
    one, two, three, four = (_sums(1, eights) for eights in (1, 2, 3, SUMS))

    @device
    def run(
        w: Ptr, first: Int, last: Int, x: Ptr, n: Int, y: Ptr, stride: Int, bias: Ptr, units: Int,
        rows: Int, token: Int, streams: Int, near: Int, far: Int, chunk: Int,
    ) -> None:  # fmt: skip
        out, eight = memory(), TOKENS * token
        configure(out)
        for start in range(0, n, chunk):
            stop, low = s.smaller(start + chunk, n), first
            ahead = units * UNIT if far == NEXT else far
            if stop - start == 1:
                ahead = near
            if stop - start <= TOKENS and streams == SUMS:
                while low + SUMS <= last:
                    wide(w + low * units * UNIT, units, x + start * token, eight, out, ahead)
                    for g in range(SUMS):
                        _put(
                            out + TILE * g, stop - start, y + 64 * (low + g) + 4 * start * stride,
                            stride, bias + 64 * (low + g) if bias != 0 else 0,
                            rows - 16 * (low + g),
                        )  # fmt: skip
                    low += SUMS
            for g in range(low, last):
                wg, b = w + g * units * UNIT, bias + 64 * g if bias != 0 else 0
                t = start
                while t < stop:
                    left, p = s.smaller(stop - t, SUMS * TOKENS), x + t * token
                    if left > 3 * TOKENS:
                        four(wg, units, p, eight, out, ahead)
                    elif left > 2 * TOKENS:
                        three(wg, units, p, eight, out, ahead)
                    elif left > TOKENS:
                        two(wg, units, p, eight, out, ahead)
                    else:
                        one(wg, units, p, eight, out, ahead)
                    _put(out, left, y + 64 * g + 4 * t * stride, stride, b, rows - 16 * g)
                    t += left
        amx.release()

    return run
