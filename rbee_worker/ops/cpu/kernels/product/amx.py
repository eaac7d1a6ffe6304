"""Intel's AMX: one block of 32 columns times 16 tokens, for 16 rows of packed weights.

A tile instruction multiplies an A tile (16 tokens, each 32 bytes of activations) by a B tile (8
rows of 64 bytes: weights) and adds to a C tile of 16 x 16 int32, one row for each token. An
unpacked block already has the layout of a B tile: lane by lane, vector k holds columns 4k .. 4k+3
of a row of the matrix (`blocks.py`). Prepared activations (`steps.py`) are interleaved by 8 tokens
only, so those of 16 tokens are gathered. 16-bit numbers take two products, one for their high and
one for their low bytes.

Weights are unpacked once for many tokens, into a panel: for each block an entry of 8 vectors of
signed bytes, then d and, if the format has one, m, as float32. C tiles go through memory to the
vector registers, where `step` adds them up while the next block is being multiplied.

Integer sums are exact in any order, and floats are joined in the same order as in `steps.py`, so a
row's result is bitwise the same with and without tiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, Void, op
from rbee_worker.ops.cpu.compiler.vec import Pen, Ref, Vec
from rbee_worker.ops.cpu.kernels.product import blocks
from rbee_worker.ops.cpu.kernels.product.steps import sums_type
from rbee_worker.ops.cpu.shared.forms import BYTES, LOW, SCALE, SUM
from rbee_worker.ops.cpu.shared.held import HELD

TOKENS = 16  # tokens of a tile
WEIGHTS = 512  # bytes of an entry's weights
PLANE = 512  # bytes of 16 tokens' activations: 32 each

_C, _A, _B = 0, 2, 3  # the first of 2, 1 and 1 tile registers


class TileShape(NamedTuple):
    """How products of one weight format and one form of activations are cut into tiles."""

    encoding: blocks.Encoding
    form: str

    @property
    def planes(self) -> tuple[int, ...]:
        """Offsets of a token's bytes in a block, the most significant byte of each number first."""
        return (0, LOW) if self.form == "i16" else (0,)

    @property
    def entry_bytes(self) -> int:
        """Bytes of a panel's entry."""
        return WEIGHTS + 64 * (2 if self.encoding.mins else 1)

    @property
    def gathered_bytes(self) -> int:
        """Bytes of a block of gathered activations."""
        return PLANE * len(self.planes)

    @property
    def slice(self) -> int:
        """The most entries along a row that are unpacked at a time."""
        return 12

    @property
    def groups(self) -> int:
        """Groups of 16 rows that share gathered activations."""
        return 8

    @property
    def tokens(self) -> tuple[int, int]:
        """The fewest and the most tokens per panel; in between, as many as fit into the cache."""
        return TOKENS, 128

    @property
    def x_step(self) -> int:
        """Bytes from the prepared activations of one block to those of the next."""
        return 8 * BYTES[self.form]

    @property
    def result_bytes(self) -> int:
        """Bytes of the C tiles of a block."""
        return 1024 * len(self.planes)


def tile_shape(name: str, form: str) -> TileShape:
    """The tile shape for held format `name`."""
    return TileShape(blocks.BLOCKS[name][1], form)


def suits(name: str, form: str) -> bool:
    """Whether products can use tiles, here or in `amx_units.py`. Products in float32 cannot."""
    return form != "exact" and not HELD[name].is_float


# A constant while a kernel is translated: other targets get no code for the branch it guards.
available = op(Int, target=True)(lambda b, target: "+amx-int8" in target.split(","))


def configure(shape: TileShape) -> Any:
    """An operation `(p)` that sets up the tile registers; p: 64 bytes of scratch.

    From then on this thread has tile state, until `release`.
    """
    return configuration([(TOKENS, 64)] * 2 + [(TOKENS, 32), (8, 64)])


def configuration(sizes: Sequence[tuple[int, int]]) -> Any:
    """An operation `(p)` that sets up tile registers of the given (rows, bytes of a row)."""
    raw = bytearray(64)
    raw[0] = 1  # the palette: 8 tiles of at most 16 rows of 64 bytes
    for n, (rows, width) in enumerate(sizes):
        raw[16 + 2 * n] = width
        raw[48 + n] = rows

    def write(b: e.Builder, p: e.Value) -> None:
        e.store(b, p, e.ir.Constant(e.BYTES, list(raw)), 64)
        e.call(b, "llvm.x86.ldtilecfg", e.void, (e.pointer(b, p, e.i8),))

    return op(Void, Ptr)(write)


release = op(Void)(lambda b: e.call(b, "llvm.x86.tilerelease", e.void, ()))


def unpack(name: str) -> Any:
    """An operation `(p, to)` that unpacks the block at p into the panel entry at `to`."""
    read, encoding = blocks.BLOCKS[name]

    def write(b: e.Builder, target: str, p: e.Value, to: e.Value) -> None:
        pen = Pen(b, target)
        block, at = read(pen, pen.ref(p), pen.ref(e.number(0))), pen.ref(to)
        offset = e.const(encoding.offset, e.BYTES)
        for k, w in enumerate(block.w):
            e.store(b, (at + 64 * k).value, b.sub(b.bitcast(w.value, e.BYTES), offset), 64)
        scales = block.d[:1] if block.m is None else (block.d[0], block.m[0])
        for k, scale in enumerate(scales):
            e.store(b, (at + (WEIGHTS + 64 * k)).value, scale.value, 64)

    return op(Void, Ptr, Ptr, target=True)(write)


def gather(shape: TileShape) -> Any:
    """An operation `(x, next8, to)` that copies a block's activations, token after token.

    x: those of the first 8 tokens; those of the second 8 tokens are `next8` bytes further on.
    """
    kind = e.ir.VectorType(e.i32, 8)

    def write(b: e.Builder, x: e.Value, next8: e.Value, to: e.Value) -> None:
        for n, plane in enumerate(shape.planes):
            for t in range(TOKENS):
                p = e.at(b, b.add(x, next8) if t >= 8 else x, plane + BYTES[shape.form] * (t % 8))
                e.store(b, e.at(b, to, PLANE * n + 32 * t), e.load(b, p, kind, 4), 32)

    return op(Void, Ptr, Int, Ptr)(write)


def multiply(shape: TileShape) -> Any:
    """An operation `(given, entry, out)` that multiplies gathered activations by a panel entry.

    The result stays in the C tiles; `out` is not used here.
    """

    def write(b: e.Builder, given: e.Value, entry: e.Value, out: e.Value) -> None:
        _multiply(b, shape, given, entry)

    return op(Void, Ptr, Ptr, Ptr)(write)


def _multiply(b: e.Builder, shape: TileShape, given: e.Value, entry: e.Value) -> None:
    load_tile(b, _B, entry, 64)
    for n in range(len(shape.planes)):
        load_tile(b, _A, e.at(b, given, PLANE * n), 32)
        tile(b, "tilezero", _C + n)
        tile(b, "tdpbssd", _C + n, _A, _B)


def load_tile(b: e.Builder, register: int, p: e.Value, stride: int) -> None:
    """Fill a tile register with rows `stride` bytes apart."""
    tile(b, "tileloadd64", register, e.pointer(b, p, e.i8), e.number(stride))


def store_tile(b: e.Builder, register: int, p: e.Value) -> None:
    """Write a C tile, 64 bytes a row."""
    tile(b, "tilestored64", register, e.pointer(b, p, e.i8), e.number(64))


def tile(b: e.Builder, name: str, *args: Any) -> None:
    """A tile instruction; numbers stand for tile registers."""
    values = [e.number(a, e.i8) if isinstance(a, int) else a for a in args]
    e.call(b, f"llvm.x86.{name}", e.void, values)


def step(shape: TileShape) -> Any:
    """An operation `(sums, x, next8, entry, out, next_given, next_entry) -> sums`.

    It writes this block's C tiles to `out`, starts the product of the next block, and adds this
    block's integers to the sums.
    """
    kind = sums_type(TOKENS)

    def write(b: e.Builder, target: str, sums: e.Value, *args: e.Value) -> list[e.Value]:
        x, next8, entry, out, next_given, next_entry = args
        for n in range(len(shape.planes)):
            store_tile(b, _C + n, e.at(b, out, 1024 * n))
        _multiply(b, shape, next_given, next_entry)
        pen = Pen(b, target)
        acc = [pen.vec(b.extract_value(sums, n)) for n in range(TOKENS)]
        tokens = [pen.ref(x) + BYTES[shape.form] * t for t in range(8)]
        other = pen.ref(x) + pen.ref(next8)
        tokens += [other + BYTES[shape.form] * t for t in range(TOKENS - 8)]
        return [v.value for v in _settle(shape, acc, tokens, pen.ref(entry), pen.ref(out))]

    return op(kind, kind, Ptr, Int, *(Ptr,) * 4, target=True)(write)


def _settle(shape: TileShape, acc: list[Vec], tokens: list[Ref], entry: Ref, out: Ref) -> list[Vec]:
    """acc += (d * scale) * integer, then += m * sum, as in `steps.py`."""
    pen, result = entry.pen, []
    d = pen.load_f32(entry + WEIGHTS)
    m = pen.load_f32(entry + (WEIGHTS + 64)) if shape.encoding.mins else None
    for t, (token, total) in enumerate(zip(tokens, acc, strict=True)):
        whole = _whole(shape, out + 64 * t)
        total = (d * pen.splat(token + SCALE)).fma(whole.to_f32(), total)
        if m is not None:
            total = m.fma(pen.splat(token + SUM), total)
        result.append(total)
    return result


def _whole(shape: TileShape, out: Ref) -> Vec:
    """A token's integers."""
    high, *low = (out.pen.load(out + 1024 * n) for n in range(len(shape.planes)))
    return (high << 8) + low[0] if low else high


def _load_sums(b: e.Builder, p: e.Value) -> list[e.Value]:
    return [e.load(b, e.at(b, p, 64 * t), e.F32, 64) for t in range(TOKENS)]


def _save_sums(b: e.Builder, p: e.Value, sums: e.Value) -> None:
    for t in range(TOKENS):
        e.store(b, e.at(b, p, 64 * t), b.extract_value(sums, t), 64)


load_sums = op(sums_type(TOKENS), Ptr)(_load_sums)  # reads what `save_sums` wrote
save_sums = op(Void, Ptr, sums_type(TOKENS))(_save_sums)  # token by token
