"""Operations that processors have different instructions for: dot products and a table lookup.

They take vectors of `emit.py`; `how` is `Isa.dot`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir

from rbee_worker.ops.cpu.compiler.emit import (
    BYTES,
    F32,
    I32,
    LANES,
    Builder,
    Value,
    call,
    const,
    fma,
    i8,
    i16,
    i32,
    vector,
)

SMALL = 127  # of unsigned bytes: a pair of products with signed ones fits into 16 bits


def dot(b: Builder, how: str, acc: Value, u: Value, s: Value) -> Value:
    """acc[lane] + sum of 4 products: u's bytes unsigned (0..255) times s's bytes signed. Exact.

    `how` is Isa.dot. All vectors are I32; a lane holds 4 consecutive bytes, lowest first.
    """
    return _DOTS[how](b, acc, u, s)


def _vnni512(b: Builder, acc: Value, u: Value, s: Value) -> Value:
    return call(b, "llvm.x86.avx512.vpdpbusd.512", I32, (acc, u, s))


def _vnni256(b: Builder, acc: Value, u: Value, s: Value) -> Value:
    return _by_parts(b, 8, "llvm.x86.avx512.vpdpbusd.256", acc, u, s)


def _maddubs(b: Builder, acc: Value, u: Value, s: Value) -> Value:
    """AVX2 without VNNI: even and odd bytes as 16-bit numbers, multiplied and added in pairs.

    vpmaddubsw would do both at once but saturates for weights above 128.
    """
    words = ir.VectorType(i16, 2 * LANES)
    eight = const(8, words)
    uw, sw = b.bitcast(u, words), b.bitcast(s, words)
    pairs = (
        (b.and_(uw, const(0xFF, words)), b.ashr(b.shl(sw, eight), eight)),
        (b.lshr(uw, eight), b.ashr(sw, eight)),
    )
    half, eight_i32 = ir.VectorType(i16, 16), ir.VectorType(i32, 8)
    for x, y in pairs:
        sums = [
            call(b, "llvm.x86.avx2.pmadd.wd", eight_i32, (part_x, part_y))
            for part_x, part_y in zip(_parts(b, x, half), _parts(b, y, half), strict=True)
        ]
        acc = b.add(acc, _join(b, sums))
    return acc


def small_dots(
    b: Builder, acc: Sequence[Value], us: Sequence[Value], ss: Sequence[Sequence[Value]], top: int
) -> list[Value]:
    """For AVX2 without VNNI: for each token acc[lane] + the products of all bytes of `us`, at most
    `top` <= SMALL, and of that token's `ss`, as `dot` of one vector after another. Exact.

    vpmaddubsw multiplies and adds pairs as 16-bit numbers, of which several fit into 16 bits
    together. Half a vector at a time: sums of 8 tokens then have a register each.
    """
    together = 32767 // (2 * top * 128)
    bytes_half, words_half = ir.VectorType(i8, 32), ir.VectorType(i16, 16)
    ones, wide = const(1, words_half), ir.VectorType(i32, 8)
    halves = []
    for half in range(2):
        totals: list[Value | None] = [None] * len(acc)
        for first in range(0, len(us), together):
            words: list[Value | None] = [None] * len(acc)
            for k in range(first, min(first + together, len(us))):
                u = _parts(b, b.bitcast(us[k], BYTES), bytes_half)[half]
                for t, s in enumerate(ss):
                    signed = _parts(b, b.bitcast(s[k], BYTES), bytes_half)[half]
                    pairs = call(b, "llvm.x86.avx2.pmadd.ub.sw", words_half, (u, signed))
                    words[t] = pairs if words[t] is None else b.add(words[t], pairs)
            for t, found in enumerate(words):
                sums = call(b, "llvm.x86.avx2.pmadd.wd", wide, (found, ones))
                totals[t] = sums if totals[t] is None else b.add(totals[t], sums)
        halves.append(totals)
    joined = (_join(b, [low, high]) for low, high in zip(*halves, strict=True))
    return [b.add(a, sums) for a, sums in zip(acc, joined, strict=True)]


def _sdot(b: Builder, acc: Value, u: Value, s: Value) -> Value:
    """NEON: sdot is signed by signed, so u is split in u - 128 and 128."""
    flipped = b.xor(u, const(-0x7F7F7F80))
    whole = _by_parts(b, 4, "llvm.aarch64.neon.sdot.v4i32.v16i8", acc, flipped, s)
    sums = _by_parts(b, 4, "llvm.aarch64.neon.sdot.v4i32.v16i8", const(0), const(0x01010101), s)
    return b.add(whole, b.shl(sums, const(7)))


def _plain(b: Builder, acc: Value, u: Value, s: Value) -> Value:
    for byte in range(4):
        x = b.and_(b.lshr(u, const(8 * byte)), const(0xFF))
        y = b.ashr(b.shl(s, const(24 - 8 * byte)), const(24))
        acc = b.add(acc, b.mul(x, y))
    return acc


_DOTS: dict[str, Callable[[Builder, Value, Value, Value], Value]] = {
    "vnni512": _vnni512,
    "vnni256": _vnni256,
    "maddubs": _maddubs,
    "sdot": _sdot,
    "plain": _plain,
}


def dot_words(b: Builder, how: str, acc: Value, u: Value, v: Value) -> Value:
    """acc[lane] plus 2 products of the signed 16-bit halves of u's and v's lanes. Exact.

    `how` is Isa.dot. All vectors are I32.
    """
    if how == "vnni512":
        return call(b, "llvm.x86.avx512.vpdpwssd.512", I32, (acc, u, v))
    sixteen = const(16)
    low = b.mul(*(b.ashr(b.shl(x, sixteen), sixteen) for x in (u, v)))
    return b.add(acc, b.add(low, b.mul(b.ashr(u, sixteen), b.ashr(v, sixteen))))


def either(b: Builder, how: str, x: Value, y: Value, z: Value) -> Value:
    """x | y | z of I32. `how` is Isa.dot.

    With AVX-512 it is one instruction that LLVM takes as it stands: it would collect a loop's "or"s
    at the end, and keep all their operands in registers until then.
    """
    if how == "vnni512":
        args = (x, y, z, ir.Constant(i32, 0xFE))
        return call(b, "llvm.x86.avx512.pternlog.d.512", I32, args)
    return b.or_(b.or_(x, y), z)


class _BFloat(ir.types.Type):  # type: ignore[misc]
    """LLVM's bfloat, which llvmlite does not name."""

    intrinsic_name = "bf16"

    def _to_string(self) -> str:
        return "bfloat"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _BFloat)

    def __hash__(self) -> int:
        return hash(_BFloat)


def dot_bf16(b: Builder, native: bool, acc: Value, u: Value, v: Value) -> Value:
    """acc[lane], then plus the product of the high bfloat16 of u's and v's lanes, then plus that of
    the low ones: each product is exact, each sum rounded once.

    acc is F32, u and v are I32. native: by the processor's instruction, which takes numbers below
    2^-126 for 0; without it they count.
    """
    if native:
        pairs = ir.VectorType(_BFloat(), 2 * LANES)
        args = (acc, b.bitcast(u, pairs), b.bitcast(v, pairs))
        return call(b, "llvm.x86.avx512bf16.dpbf16ps.512", F32, args)
    for part in (_high_bf16, _low_bf16):
        acc = fma(b, part(b, u), part(b, v), acc)
    return acc


def _high_bf16(b: Builder, v: Value) -> Value:
    return b.bitcast(b.and_(v, const(-0x10000)), F32)


def _low_bf16(b: Builder, v: Value) -> Value:
    return b.bitcast(b.shl(v, const(16)), F32)


def lookup(b: Builder, how: str, table: Sequence[int], nibbles: Value) -> Value:
    """Each byte of `nibbles` (0..15, in an I32 vector) replaced by table[byte], 16 bytes."""
    index = b.bitcast(nibbles, BYTES)
    if how == "vnni512":
        entries = vector([t & 0xFF for t in table] * 4, i8)
        return b.bitcast(call(b, "llvm.x86.avx512.pshuf.b.512", BYTES, (entries, index)), I32)
    if how in ("vnni256", "maddubs"):
        half = ir.VectorType(i8, 32)
        entries = vector([t & 0xFF for t in table] * 2, i8)
        halves = [
            call(b, "llvm.x86.avx2.pshuf.b", half, (entries, part))
            for part in _parts(b, index, half)
        ]
        return b.bitcast(_join(b, halves), I32)
    # four levels of selects, one for each bit of the index
    values: list[Any] = [const(t & 0xFF, BYTES) for t in table]
    for bit in range(4):
        is_set = b.icmp_unsigned("!=", b.and_(index, const(1 << bit, BYTES)), const(0, BYTES))
        values = [
            b.select(is_set, high, low)
            for low, high in zip(values[0::2], values[1::2], strict=True)
        ]
    return b.bitcast(values[0], I32)


# ---- vectors in parts


def _parts(b: Builder, v: Value, kind: ir.VectorType) -> list[Value]:
    undefined = ir.Constant(v.type, ir.Undefined)
    n = kind.count
    return [
        b.shuffle_vector(v, undefined, vector(range(start, start + n)))
        for start in range(0, v.type.count, n)
    ]


def _join(b: Builder, parts: list[Value]) -> Value:
    while len(parts) > 1:
        n = 2 * parts[0].type.count
        order = vector(range(n))
        parts = [
            b.shuffle_vector(x, y, order) for x, y in zip(parts[0::2], parts[1::2], strict=True)
        ]
    return parts[0]


def _by_parts(b: Builder, lanes: int, name: str, acc: Value, u: Value, s: Value) -> Value:
    """Apply a narrower intrinsic (acc, u, s) to each run of `lanes` lanes."""
    kind = ir.VectorType(i32, lanes)
    as_bytes = "neon" in name
    narrow = ir.VectorType(i8, 4 * lanes)
    out = []
    for parts in zip(*(_parts(b, v, kind) for v in (acc, u, s)), strict=True):
        a, x, y = parts
        if as_bytes:
            x, y = b.bitcast(x, narrow), b.bitcast(y, narrow)
        out.append(call(b, name, kind, (a, x, y)))
    return _join(b, out)
