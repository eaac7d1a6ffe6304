"""Products of packed weights on Intel's AMX: one block of 32 columns times 8 tokens, 32 rows.

A tile instruction multiplies an A tile (8 tokens, each 32 bytes of activations) by a B tile (16
rows of weights) into a C tile of 8 x 16 int32. Both operands lie in memory as the tiles want them:
the prepared activations of 8 tokens are `BYTES[form]` bytes apart (`tile.py`), and vector k of an
unpacked block holds in lane r columns 4k .. 4k+3 of row r (`blocks.py`), which is row k of a B
tile. A block whose halves have scales of their own takes two products of 16 columns; numbers of 16
bits take one for their high and one for their low bytes.

Weights are unpacked once for all tokens of a step, into a panel: for each block and group of 16
rows an entry of 8 vectors of signed bytes, then d and, where the format has it, m, as float32, one
for each half that has its own. C tiles go through memory, where `settle` reads them; they are
those of the block after the one that is being settled, so that both units always have work.

The integers are exact in whatever order they are added, and floats are joined as `tile.py` does:
a row's result is bitwise the same in a tile as alone.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rbee_worker.ops.cpu import blocks
from rbee_worker.ops.cpu import emit as e
from rbee_worker.ops.cpu.forms import BYTES, TOKENS
from rbee_worker.ops.cpu.held import HELD
from rbee_worker.ops.cpu.simd import Int, Ptr, Void, op
from rbee_worker.ops.cpu.tile import LOW, SCALE, SUM, SUMS, sums_type
from rbee_worker.ops.cpu.vec import Pen, Ref, Vec

LEAST = 4  # tokens from which on tiles are faster
MOST = 256  # tokens whose sums are kept
BLOCKS = 16  # blocks along a row that are unpacked at a time
GROUPS = 2  # groups of 16 rows that share a tile of activations
WEIGHTS = 512  # bytes of an entry's weights
RESULT = 64 * TOKENS  # bytes of a C tile

_C, _A, _B = 0, 4, 6  # the first of 4, 2 and 2 tile registers


class Plan(NamedTuple):
    """How products of one format and form of activations are cut."""

    shape: blocks.Shape
    form: str

    @property
    def halves(self) -> int:
        """Products along a block's columns."""
        return 2 if self.shape.halves else 1

    @property
    def planes(self) -> tuple[int, ...]:
        """Where a token's bytes begin, the most significant first."""
        return (0, LOW) if self.form == "i16" else (0,)

    @property
    def entry(self) -> int:
        """Bytes of a panel's entry."""
        return WEIGHTS + 64 * self.halves * (2 if self.shape.mins else 1)

    @property
    def results(self) -> int:
        """Bytes of the C tiles of one block and `GROUPS` groups."""
        return GROUPS * self.halves * len(self.planes) * RESULT

    def result(self, group: int, half: int, plane: int) -> int:
        """Where a C tile lies among them."""
        return ((group * self.halves + half) * len(self.planes) + plane) * RESULT


def plan(name: str, form: str) -> Plan:
    """The plan for held format `name`."""
    return Plan(blocks.BLOCKS[name][1], form)


def suits(name: str, form: str) -> bool:
    """Whether there is a plan: products in float32 have none."""
    return form != "exact" and not HELD[name].is_float


# Known while a kernel is translated: what it would guard is not even written elsewhere.
available = op(Int, target=True)(lambda b, target: "+amx-int8" in target.split(","))


def memory(nbytes: int) -> Any:
    """An operation: the address of `nbytes` bytes of the stack, on a cache line."""

    def write(b: e.Builder) -> e.Value:
        place = b.alloca(e.ir.ArrayType(e.i8, nbytes))
        place.align = 64
        return b.ptrtoint(place, e.i64)

    return op(Ptr)(write)


def configure(name: str, form: str) -> Any:
    """An operation `(p)`: tile registers for a format; p: 64 bytes of scratch.

    From then on this thread has tile state, which `release` gives back.
    """
    columns = 32 // plan(name, form).halves
    sizes = [(TOKENS, 64)] * 4 + [(TOKENS, columns)] * 2 + [(columns // 4, 64)] * 2
    raw = bytearray(64)
    raw[0] = 1  # the palette: 8 tiles of at most 16 rows of 64 bytes
    for n, (rows, width) in enumerate(sizes):
        raw[16 + 2 * n] = width
        raw[48 + n] = rows
    kind = e.ir.VectorType(e.i8, 64)

    def write(b: e.Builder, p: e.Value) -> None:
        e.store(b, p, e.ir.Constant(kind, list(raw)))
        e.call(b, "llvm.x86.ldtilecfg", e.void, (e.pointer(b, p, e.i8),))

    return op(Void, Ptr)(write)


release = op(Void)(lambda b: e.call(b, "llvm.x86.tilerelease", e.void, ()))


def unpack(name: str) -> Any:
    """An operation `(p, j, to)`: block j of the unit at p becomes the panel's entry at `to`."""
    read, shape = blocks.BLOCKS[name]

    def write(b: e.Builder, target: str, p: e.Value, j: e.Value, to: e.Value) -> None:
        pen = Pen(b, target)
        block, at = read(pen, pen.ref(p), pen.ref(j)), pen.ref(to)
        offset = e.const(shape.offset, e.BYTES)
        for k, w in enumerate(block.w):
            e.store(b, (at + 64 * k).value, b.sub(b.bitcast(w.value, e.BYTES), offset), 64)
        scales = block.d[: 2 if shape.halves else 1]
        if block.m is not None:
            scales += block.m[: len(scales)]
        for k, scale in enumerate(scales):
            e.store(b, (at + (WEIGHTS + 64 * k)).value, scale.value, 64)

    return op(Void, Ptr, Int, Ptr, target=True)(write)


def multiply(name: str, form: str, groups: int) -> Any:
    """An operation `(x, panel, out)`: the integer products of a block's activations at x and its
    `groups` entries at `panel` are on their way to `out`."""
    how = plan(name, form)

    def write(b: e.Builder, x: e.Value, panel: e.Value, out: e.Value) -> None:
        _multiply(b, how, groups, x, panel, out)

    return op(Void, Ptr, Ptr, Ptr)(write)


def _multiply(
    b: e.Builder, how: Plan, groups: int, x: e.Value, panel: e.Value, out: e.Value
) -> None:
    for half in range(how.halves):
        for n, plane in enumerate(how.planes):
            _load(b, _A + n, e.at(b, x, plane + 16 * half), BYTES[how.form])
        for g in range(groups):
            _load(b, _B + g, e.at(b, panel, how.entry * g + 256 * half), 64)
        tiles = [(g, n) for g in range(groups) for n in range(len(how.planes))]
        for c, (g, n) in enumerate(tiles):
            _tile(b, "tilezero", _C + c)
            _tile(b, "tdpbssd", _C + c, _A + n, _B + g)
        for c, (g, n) in enumerate(tiles):
            to = e.at(b, out, how.result(g, half, n))
            _tile(b, "tilestored64", _C + c, e.pointer(b, to, e.i8), e.number(64))


def _load(b: e.Builder, tile: int, p: e.Value, stride: int) -> None:
    _tile(b, "tileloadd64", tile, e.pointer(b, p, e.i8), e.number(stride))


def _tile(b: e.Builder, name: str, *args: Any) -> None:
    """A tile instruction; numbers stand for tile registers."""
    values = [e.number(a, e.i8) if isinstance(a, int) else a for a in args]
    e.call(b, f"llvm.x86.{name}", e.void, values)


def step(name: str, form: str, groups: int) -> Any:
    """An operation `(sums, x, panel, out, next_x, next_panel, next_out) -> sums`: starts the next
    block's products, then adds this block's, which are at `out`. `sums` has 8 vectors a group."""
    how, kind = plan(name, form), sums_type(TOKENS * groups)

    def write(b: e.Builder, target: str, sums: e.Value, *at: e.Value) -> list[e.Value]:
        x, panel, out, *following = at
        _multiply(b, how, groups, *following)
        pen = Pen(b, target)
        acc = [pen.vec(b.extract_value(sums, n)) for n in range(TOKENS * groups)]
        return [v.value for v in _settle(pen, how, acc, pen.ref(x), pen.ref(panel), pen.ref(out))]

    return op(kind, kind, *(Ptr,) * 6, target=True)(write)


def _settle(pen: Pen, how: Plan, acc: list[Vec], x: Ref, panel: Ref, out: Ref) -> list[Vec]:
    """acc += (d * scale) * integer, then += m * sum, half by half, as `tile.py` has it."""
    acc = list(acc)
    sum_at = SUMS if how.shape.halves else (SUM,)
    groups = len(acc) // TOKENS
    for half in range(how.halves):
        entries = [panel + (how.entry * g + WEIGHTS + 64 * half) for g in range(groups)]
        d = [pen.load_f32(at) for at in entries]
        m = [pen.load_f32(at + 64 * how.halves) for at in entries] if how.shape.mins else []
        for t in range(TOKENS):
            token = x + BYTES[how.form] * t
            scale = pen.splat(token + SCALE)
            for g in range(groups):
                n = TOKENS * g + t
                whole = _whole(pen, how, out + 64 * t, g, half)
                acc[n] = (d[g] * scale).fma(whole.to_f32(), acc[n])
                if m:
                    acc[n] = m[g].fma(pen.splat(token + sum_at[half]), acc[n])
    return acc


def _whole(pen: Pen, how: Plan, out: Ref, group: int, half: int) -> Vec:
    """A token's integers."""
    high, *low = (pen.load(out + how.result(group, half, n)) for n in range(len(how.planes)))
    return (high << 8) + low[0] if low else high


def load_sums(groups: int) -> Any:
    """An operation `(p)`: the sums that `save_sums` wrote."""
    count = TOKENS * groups

    def write(b: e.Builder, p: e.Value) -> list[e.Value]:
        return [e.load(b, e.at(b, p, 64 * n), e.F32, 64) for n in range(count)]

    return op(sums_type(count), Ptr)(write)


def save_sums(groups: int) -> Any:
    """An operation `(p, sums)`: keep sums, token by token within a group."""
    count = TOKENS * groups

    def write(b: e.Builder, p: e.Value, sums: e.Value) -> None:
        for n in range(count):
            e.store(b, e.at(b, p, 64 * n), b.extract_value(sums, n), 64)

    return op(Void, Ptr, sums_type(count))(write)
