"""Intel's AMX: one unit of 256 columns of a K format times 16 tokens, for 16 rows.

Without its unit's scale d, a weight is a 15-bit integer, scale * w. `unpack` splits it into two
signed bytes: scale * w = 128 h + l. So a unit takes two byte products for the activations' bytes u,
and for form k16 two more for their second bytes v (`k_steps.py`). The C tiles keep the sums of all
256 columns: H = 128 sum h u + sum l u, L = 128 sum h v + sum l v. These are the integers of
`k_steps.py`, joined in the same way: bitwise the same results, scaled once for 256 columns.

A panel entry: for each 64 columns the B tiles of h and of l, each 16 rows of 64 bytes, four columns
of 16 rows of the matrix; then d, and the blocks' minimums if the format has them. Gathered
activations: for each 64 columns the A tiles of u and of v.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, Void, op
from rbee_worker.ops.cpu.compiler.vec import Pen, Ref, Vec
from rbee_worker.ops.cpu.kernels.product import blocks
from rbee_worker.ops.cpu.kernels.product.amx import (
    TOKENS,
    configuration,
    load_tile,
    store_tile,
    tile,
)
from rbee_worker.ops.cpu.kernels.product.k_steps import (
    CELLS,
    add_minimums,
    block_step,
    joined,
    planes,
)
from rbee_worker.ops.cpu.kernels.product.steps import sums_type
from rbee_worker.ops.cpu.shared.forms import BYTES, SCALE

TILE = 1024  # bytes
DEEP = CELLS // 2  # products of 64 columns in a unit
WEIGHTS = 2 * DEEP * TILE  # bytes of an entry's weights
CELL_ROWS = 512  # bytes of 32 columns in a B tile: half of it
# Tile registers, two for C. Using few needs more loads, but where two threads share a core, 8
# registers were seen to take three times as long as 4; with one thread a core, the same time.
_C, _A, _B = 0, 2, 3
_WORDS = e.ir.VectorType(e.i16, 2 * e.LANES)


class TileShape(NamedTuple):
    """How products of one weight format and one form of activations are cut into tiles."""

    encoding: blocks.Encoding
    form: str

    @property
    def planes(self) -> int:
        """Bytes of a number."""
        return len(planes(self.form))

    @property
    def slice(self) -> int:
        """Entries along a row that are unpacked at a time."""
        return 1

    @property
    def groups(self) -> int:
        """Groups of 16 rows that share gathered activations."""
        return 16

    @property
    def tokens(self) -> tuple[int, int]:
        """The fewest and the most tokens per panel: many, because unpacking takes longer than in
        `amx.py`, and one unit's columns of their activations fit into the cache anyway."""
        return 256, 256

    @property
    def minimums(self) -> int:
        """Vectors of minimums in a block of 32 columns."""
        return (2 if self.encoding.halves else 1) if self.encoding.mins else 0

    @property
    def entry_bytes(self) -> int:
        """Bytes of a panel's entry, which is one unit."""
        return WEIGHTS + 64 * (1 + CELLS * self.minimums)

    @property
    def gathered_bytes(self) -> int:
        """Bytes of a unit of gathered activations."""
        return self.planes * DEEP * TILE

    @property
    def result_bytes(self) -> int:
        """Bytes of the C tiles of a unit."""
        return 2 * self.planes * TILE

    @property
    def x_step(self) -> int:
        """Bytes from the prepared activations of one unit to those of the next."""
        return CELLS * block_step(self.form)


def tile_shape(name: str, form: str) -> TileShape:
    """The tile shape for held format `name`."""
    return TileShape(blocks.BLOCKS[name][1], form)


def configure(shape: TileShape) -> Any:
    """As `amx.configure`."""
    return configuration([(TOKENS, 64)] * 4)


def unpack(name: str) -> Any:
    """An operation `(p, to)` that unpacks the unit at p into the panel entry at `to`."""
    shape = tile_shape(name, "k8")  # unpacking is the same for both forms

    def write(b: e.Builder, target: str, p: e.Value, to: e.Value) -> None:
        pen = Pen(b, target)
        unit, entry = pen.ref(p), pen.ref(to)

        def body(j: e.Value, _none: list[e.Value]) -> list[e.Value]:
            at = pen.ref(b.lshr(j, e.number(1))) * (2 * TILE)
            rows = entry + at + pen.ref(b.and_(j, e.number(1))) * CELL_ROWS
            block = blocks.BLOCKS[name][0](pen, unit, pen.ref(j))
            assert block.scale is not None
            scales = [_twice(s) for s in block.scale]
            for k, w in enumerate(block.w):
                high, low = _bytes(b, w.value, shape.encoding, scales[k // 4])
                e.store(b, (rows + 64 * k).value, high, 64)
                e.store(b, (rows + (TILE + 64 * k)).value, low, 64)
            for k, m in enumerate((block.m or ())[: shape.minimums]):
                place = entry + (WEIGHTS + 64 * (1 + k)) + pen.ref(j) * (64 * shape.minimums)
                e.store(b, place.value, m.value, 64)
            return []

        e.loop(b, e.number(0), e.number(CELLS), [], body)
        d = blocks.BLOCKS[name][0](pen, unit, pen.ref(e.number(0))).unit
        assert d is not None
        e.store(b, (entry + WEIGHTS).value, d.value, 64)

    return op(Void, Ptr, Ptr, target=True)(write)


def _twice(scale: Vec) -> e.Value:
    """Each lane's number, repeated in both of its 16-bit halves."""
    b = scale.pen.b
    return b.bitcast(((scale & 0xFFFF) | (scale << 16)).value, _WORDS)


def _bytes(
    b: e.Builder, w: e.Value, encoding: blocks.Encoding, scale: e.Value
) -> tuple[e.Value, e.Value]:
    """scale * (byte - offset) of every byte of w, split into bytes h and l of 128 h + l.

    l is from -64 to 63, or from 0 to 127 where no weight is negative.
    """
    words, eight, low_byte = b.bitcast(w, _WORDS), e.const(8, _WORDS), e.const(255, _WORDS)
    even, odd = (b.mul(x, scale) for x in (b.and_(words, low_byte), b.lshr(words, eight)))
    if not encoding.mins:
        more = b.sub(e.const(64, _WORDS), b.mul(scale, e.const(encoding.offset, _WORDS)))
        even, odd = b.add(even, more), b.add(odd, more)  # 128 h + l + 64
    high = b.or_(
        b.and_(b.lshr(even, e.const(7, _WORDS)), low_byte),
        b.and_(b.shl(odd, e.const(1, _WORDS)), e.const(-256, _WORDS)),
    )
    low = b.bitcast(b.or_(b.and_(even, low_byte), b.shl(odd, eight)), e.BYTES)
    low = b.and_(low, e.const(127, e.BYTES))
    low = low if encoding.mins else b.sub(low, e.const(64, e.BYTES))
    return b.bitcast(high, e.BYTES), low


def gather(shape: TileShape) -> Any:
    """An operation `(x, next8, to)` that copies a unit's activations into A tiles.

    x: those of the first 8 tokens; those of the second 8 tokens are `next8` bytes further on.
    """
    kind = e.ir.VectorType(e.i32, 8)

    def write(b: e.Builder, x: e.Value, next8: e.Value, to: e.Value) -> None:
        def body(j: e.Value, _none: list[e.Value]) -> list[e.Value]:
            cell = b.add(x, b.mul(j, e.number(block_step(shape.form))))
            second = b.add(cell, next8)
            tiles = b.mul(b.lshr(j, e.number(1)), e.number(shape.planes * TILE))
            half = b.mul(b.and_(j, e.number(1)), e.number(32))
            place = b.add(to, b.add(tiles, half))
            for n, plane in enumerate(planes(shape.form)):
                for t in range(TOKENS):
                    p = e.at(b, second if t >= 8 else cell, plane + BYTES[shape.form] * (t % 8))
                    e.store(b, e.at(b, place, TILE * n + 64 * t), e.load(b, p, kind, 4), 32)
            return []

        e.loop(b, e.number(0), e.number(CELLS), [], body)

    return op(Void, Ptr, Int, Ptr)(write)


def multiply(shape: TileShape) -> Any:
    """An operation `(given, entry, out)` that multiplies gathered activations by a panel entry.

    Products of the activations' last bytes stay in the C tiles; `out` gets the others.
    """

    def write(b: e.Builder, given: e.Value, entry: e.Value, out: e.Value) -> None:
        for n in range(shape.planes):
            if n > 0:
                _store(b, out, n - 1)
            for k in range(DEEP):
                _multiply(b, shape, n, k, given, entry)

    return op(Void, Ptr, Ptr, Ptr)(write)


def _multiply(
    b: e.Builder, shape: TileShape, n: int, k: int, given: e.Value, entry: e.Value
) -> None:
    """The k-th 64 columns of a unit, with the n-th bytes of their activations."""
    load_tile(b, _A, e.at(b, given, (shape.planes * k + n) * TILE), 64)
    for part in range(2):
        load_tile(b, _B, e.at(b, entry, (2 * k + part) * TILE), 64)
        if k == 0:
            tile(b, "tilezero", _C + part)
        tile(b, "tdpbssd", _C + part, _A, _B)


def _store(b: e.Builder, out: e.Value, n: int) -> None:
    for part in range(2):
        store_tile(b, _C + part, e.at(b, out, (2 * n + part) * TILE))


def step(shape: TileShape) -> Any:
    """An operation `(sums, x, next8, entry, out, next_given, next_entry) -> sums`.

    It writes this unit's C tiles to `out`, multiplies the next unit, and adds this unit's integers
    to the sums.
    """
    kind = sums_type(TOKENS)

    def write(b: e.Builder, target: str, sums: e.Value, *args: e.Value) -> list[e.Value]:
        x, next8, entry, out, next_given, next_entry = args
        _store(b, out, shape.planes - 1)
        pen = Pen(b, target)
        acc = [pen.vec(b.extract_value(sums, n)) for n in range(TOKENS)]
        first = pen.ref(x)
        xs = [
            at + BYTES[shape.form] * n for at in (first, first + pen.ref(next8)) for n in range(8)
        ]
        few = TOKENS // DEEP  # multiplying and adding alternate: neither waits for the other
        for k in range(DEEP):
            _multiply(b, shape, 0, k, next_given, next_entry)
            part = slice(k * few, (k + 1) * few)
            places = [pen.ref(out) + 64 * t for t in range(part.start, part.stop)]
            acc[part] = _settle(shape, acc[part], xs[part], pen.ref(entry), places)
        for n in range(1, shape.planes):
            _store(b, out, n - 1)
            for k in range(DEEP):
                _multiply(b, shape, n, k, next_given, next_entry)
        return [v.value for v in acc]

    return op(kind, kind, Ptr, Int, *(Ptr,) * 4, target=True)(write)


def _settle(
    shape: TileShape, acc: list[Vec], xs: list[Ref], entry: Ref, places: list[Ref]
) -> list[Vec]:
    """The end of a unit as in `k_steps.py`, for tokens at `xs` whose integers are at `places`."""
    pen, result = entry.pen, []
    d = pen.load_f32(entry + WEIGHTS)
    for total, x, place in zip(acc, xs, places, strict=True):
        c = [pen.load(place + TILE * n) for n in range(2 * shape.planes)]
        parts = [(h << 7) + low for h, low in zip(c[::2], c[1::2], strict=True)]
        result.append((d * pen.splat(x + SCALE)).fma(joined(pen, parts), total))
    for j in range(CELLS if shape.encoding.mins else 0):
        at = entry + (WEIGHTS + 64 * (1 + j * shape.minimums))
        m = pen.load_f32(at), pen.load_f32(at + 64 * (shape.minimums - 1))
        block = blocks.Block([], m, m)
        at_block = xs[0] + block_step(shape.form) * j
        result = add_minimums(pen, result, at_block, block, shape.encoding, shape.form)
    return result
