"""Activations made ready for a matrix product: grouped by 8 tokens, block by block.

See tile.py for what a block holds. i8: d = max |x| / 127 over 32 columns, as ggml's Q8_0. i16:
d = max |x| / (127 * 256).
"""

from __future__ import annotations

import numpy as np

from rbee_worker.ops.cpu import simd as s
from rbee_worker.ops.cpu import tile
from rbee_worker.ops.cpu.forms import BYTES
from rbee_worker.ops.cpu.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.simd import Float, Int, Ptr, Vector

f32 = np.float32


@device
def _rounded(a: Vector, b: Vector, most: Float, to: Ptr) -> tuple[Vector, Vector]:
    """32 floats as integers of magnitude <= most; their scale and sums go into the block at `to`.

    A nan or infinity makes the scale nan.
    """
    top = s.largest(s.maximum(s.magnitude(a), s.magnitude(b)))
    zero = s.fill(f32(0.0))
    poison = s.total(s.add(s.mul(a, zero), s.mul(b, zero)))
    inverse = most / top if top > f32(0.0) else f32(0.0)
    d = top / most + poison
    low = s.to_i32(s.nearest(s.mul(a, s.fill(inverse))))
    high = s.to_i32(s.nearest(s.mul(b, s.fill(inverse))))
    sum0, sum1 = s.isum(low), s.isum(high)
    s.set_f32(to + tile.SCALE, d)
    s.set_i32(to + tile.LESS8, -8 * (sum0 + sum1))
    s.set_i32(to + tile.LESS128, -128 * (sum0 + sum1))
    s.set_i32(to + tile.LESS32[0], -32 * sum0)
    s.set_i32(to + tile.LESS32[1], -32 * sum1)
    s.set_f32(to + tile.SUM, d * f32(sum0 + sum1))
    s.set_f32(to + tile.SUMS[0], d * f32(sum0))
    s.set_f32(to + tile.SUMS[1], d * f32(sum1))
    return low, high


@device
def i8_block(a: Vector, b: Vector, to: Ptr) -> None:
    """32 floats as bytes."""
    low, high = _rounded(a, b, f32(127.0), to)
    s.store_i8(to, low)
    s.store_i8(to + 16, high)


@device
def i16_block(a: Vector, b: Vector, to: Ptr) -> None:
    """32 floats as pairs of bytes q = 256 u + v, v from -128 to 127."""
    low, high = _rounded(a, b, f32(32512.0), to)
    half = s.fill_i32(128)
    low_u, high_u = s.sar(s.iadd(low, half), 8), s.sar(s.iadd(high, half), 8)
    s.store_i8(to, low_u)
    s.store_i8(to + 16, high_u)
    s.store_i8(to + tile.LOW, s.isub(low, s.shl(low_u, 8)))
    s.store_i8(to + tile.LOW + 16, s.isub(high, s.shl(high_u, 8)))


@device
def exact_block(a: Vector, b: Vector, to: Ptr) -> None:
    """32 floats and their sums."""
    s.store_f32(to, a)
    s.store_f32(to + 64, b)
    sum0, sum1 = s.total(a), s.total(b)
    s.set_f32(to + tile.EXACT_SUM, sum0 + sum1)
    s.set_f32(to + tile.EXACT_SUMS[0], sum0)
    s.set_f32(to + tile.EXACT_SUMS[1], sum1)


def build(variant: str) -> Kernel:
    """Kernel `prepare.<form>`: x [n, cols], rows `stride` floats apart -> out;
    header slot `count` holds n. Threads share runs of `per` blocks, a divisor of a row's."""
    block = {"i8": i8_block, "i16": i16_block, "exact": exact_block}[variant]
    size = BYTES[variant]

    def run(
        step: Ptr, tid: Int, nt: Int,
        x: Ptr, stride: Int, cols: Int, out: Ptr, count: Int, per: Int,
    ) -> None:  # fmt: skip
        n = s.get_i64(step + 8 * count)
        blocks = s.idiv(cols + 31, 32)
        runs = n * s.idiv(blocks, per)
        for item in range(s.idiv(tid * runs, nt) * per, s.idiv((tid + 1) * runs, nt) * per):
            t, b = s.idiv(item, blocks), s.imod(item, blocks)
            p, left = x + 4 * (t * stride + 32 * b), cols - 32 * b
            place = (s.idiv(t, 8) * blocks + b) * 8 + s.imod(t, 8)
            block(s.load_first(p, left), s.load_first(p + 64, left - 16), out + size * place)

    return kernel(f"prepare.{variant}")(run)
