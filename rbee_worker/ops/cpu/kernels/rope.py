"""Rotary positions: each head of a row is rotated by its token's angles. Threads share rows.

Angles come from a table (`step.ANGLES`): a row is dim / 2 cosines, then dim / 2 sines, both already
multiplied by the magnitude. (a, b) -> (a cos - b sin, b cos + a sin), each with one fma; columns
from `dim` on are copied.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, Vector
from rbee_worker.ops.cpu.kernels.shares import share
from rbee_worker.ops.cpu.shared import step as header


@device
def _turn_one(a: Ptr, b: Ptr, cos: Ptr, to_a: Ptr, to_b: Ptr, half: Int, i: Int) -> None:
    """One pair of numbers."""
    c, n = s.get_f32(cos + 4 * i), s.get_f32(cos + 4 * (half + i))
    x, z = s.get_f32(a), s.get_f32(b)
    s.set_f32(to_a, s.fma_f32(x, c, -(z * n)))
    s.set_f32(to_b, s.fma_f32(z, c, x * n))


@device
def _turn(a: Vector, b: Vector, c: Vector, n: Vector) -> Any:
    """16 pairs: (a c - b n, b c + a n)."""
    minus = s.sub(s.zeros(), s.mul(b, n))
    return s.fma(a, c, minus), s.fma(b, c, s.mul(a, n))


@device
def _half_split(x: Ptr, y: Ptr, cos: Ptr, half: Int) -> None:
    whole = half & ~15
    for i in range(0, whole, 16):
        c, n = s.load_f32(cos + 4 * i), s.load_f32(cos + 4 * (half + i))
        u, v = _turn(s.load_f32(x + 4 * i), s.load_f32(x + 4 * (half + i)), c, n)
        s.store_f32(y + 4 * i, u)
        s.store_f32(y + 4 * (half + i), v)
    for i in range(whole, half):
        p, q = 4 * i, 4 * (half + i)
        _turn_one(x + p, x + q, cos, y + p, y + q, half, i)


@device
def _interleaved(x: Ptr, y: Ptr, cos: Ptr, half: Int) -> None:
    whole = half & ~15
    for i in range(0, whole, 16):
        c, n = s.load_f32(cos + 4 * i), s.load_f32(cos + 4 * (half + i))
        low, high = s.load_f32(x + 8 * i), s.load_f32(x + 8 * i + 64)
        u, v = _turn(s.evens(low, high), s.odds(low, high), c, n)
        s.store_f32(y + 8 * i, s.zip_low(u, v))
        s.store_f32(y + 8 * i + 64, s.zip_high(u, v))
    for i in range(whole, half):
        p = 8 * i
        _turn_one(x + p, x + p + 4, cos, y + p, y + p + 4, half, i)


def _kernel(turn: Callable[..., None]) -> Callable[..., None]:
    def run(
        step: Ptr, tid: Int, nt: Int,
        x: Ptr, x_stride: Int, y: Ptr, y_stride: Int, heads: Int, width: Int, dim: Int, table: Int,
    ) -> None:  # fmt: skip
        n, half = s.get_i64(step + header.N), s.idiv(dim, 2)
        angles = s.get_i64(step + table + header.ANGLES)
        index = s.get_i64(step + table + header.INDEX)
        for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
            cos = angles + 4 * dim * s.get_i64(index + 8 * t)
            for h in range(heads):
                source = x + 4 * (t * x_stride + h * width)
                to = y + 4 * (t * y_stride + h * width)
                turn(source, to, cos, half)
                for i in range(dim, width):
                    s.set_f32(to + 4 * i, s.get_f32(source + 4 * i))

    return run


def build(variant: str) -> Kernel:
    """`rope.half` (pairs dim / 2 apart) or `rope.pairs` (adjacent)."""
    turn = {"half": _half_split, "pairs": _interleaved}[variant]
    return kernel(f"rope.{variant}")(_kernel(turn))
