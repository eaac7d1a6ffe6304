"""Four products of bytes at once, numbers kept as halves of words, and lookups of four bytes."""

from __future__ import annotations

import triton
import triton.language as tl

from rbee_worker.ops.cuda.kernels.launch import INTERPRETED

_EMULATED = tl.constexpr(INTERPRETED)  # the interpreter has no inline assembly


@triton.jit
def _byte(word, i: tl.constexpr):
    """Byte i of a word as a number from -128 to 127."""
    return (word << (24 - 8 * i)) >> 24


@triton.jit
def dot4(a, b, c, SIGNED: tl.constexpr):
    """c + the sum of the products of four bytes of `a`, signed or not, and four signed ones of
    `b`: all int32."""
    if _EMULATED:
        for i in tl.static_range(4):
            left = _byte(a, i) if SIGNED else (a >> (8 * i)) & 255
            c += left * _byte(b, i)
        return c
    if SIGNED:
        return tl.inline_asm_elementwise(
            "dp4a.s32.s32 $0, $1, $2, $3;",
            "=r,r,r,r",
            [a, b, c],
            dtype=tl.int32,
            is_pure=True,
            pack=1,
        )
    return tl.inline_asm_elementwise(
        "dp4a.u32.s32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, c], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def _permute(a, b, select):
    """Four of the eight bytes of `a` (0 to 3) and `b` (4 to 7): the half bytes 0 to 3 of `select`
    say which; its other bits are ignored."""
    if _EMULATED:
        out = select & 0
        for i in tl.static_range(4):
            k = (select >> (4 * i)) & 7
            chosen = tl.where(k < 4, a >> (8 * k), b >> (8 * (k & 3))) & 255
            out = out | (chosen << (8 * i))
        return out
    return tl.inline_asm_elementwise(
        "prmt.b32 $0, $1, $2, $3;", "=r,r,r,r", [a, b, select], dtype=tl.int32, is_pure=True, pack=1
    )


@triton.jit
def look_up4(codes, t0: tl.constexpr, t1: tl.constexpr, t2: tl.constexpr, t3: tl.constexpr):
    """The table's byte for each of the half bytes 0 to 3 of `codes`; the table's 16 bytes are the
    bytes of t0, t1, t2 and t3."""
    z = codes & 0
    below = codes & 0x7777
    first = _permute(z + t0, z + t1, below)
    second = _permute(z + t2, z + t3, below)
    return _permute(first, second, ((codes & 0x8888) >> 1) | 0x3210)


@triton.jit
def low_half(word):
    """The float16 in a word's low half: float32."""
    return (word & 0xFFFF).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def high_half(word):
    """The float16 in a word's high half: float32."""
    return (word >> 16).to(tl.int16).to(tl.float16, bitcast=True).to(tl.float32)


@triton.jit
def low_float(pair):
    """The float32 in the low half of 64 bits."""
    return pair.to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def high_float(pair):
    """The float32 in the high half of 64 bits."""
    return (pair >> 32).to(tl.int32).to(tl.float32, bitcast=True)


@triton.jit
def signed_byte(word, i: tl.constexpr):
    """Byte i of a word as a number from -128 to 127: int32."""
    return _byte(word, i)


@triton.jit
def unsigned_byte(word, i: tl.constexpr):
    """Byte i of a word as a number from 0 to 255: int32."""
    return (word >> (8 * i)) & 255
