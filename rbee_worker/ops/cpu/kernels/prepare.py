"""Activations made ready for a matrix product: grouped by 8 tokens, block by block.

See tile.py for what a block holds. int8: d = max |x| / 127 over 32 columns, as ggml's Q8_0.
"""

from __future__ import annotations

import numpy as np

from rbee_worker.ops.cpu import simd as s
from rbee_worker.ops.cpu import tile
from rbee_worker.ops.cpu.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.simd import Int, Ptr, Vector

f32 = np.float32


@device
def i8_block(a: Vector, b: Vector, to: Ptr) -> None:
    """32 floats as int8 with their scale and sums. A nan or infinity makes the scale nan."""
    top = s.largest(s.maximum(s.magnitude(a), s.magnitude(b)))
    zero = s.fill(f32(0.0))
    poison = s.total(s.add(s.mul(a, zero), s.mul(b, zero)))
    inverse = f32(127.0) / top if top > f32(0.0) else f32(0.0)
    d = top / f32(127.0) + poison
    low = s.to_i32(s.nearest(s.mul(a, s.fill(inverse))))
    high = s.to_i32(s.nearest(s.mul(b, s.fill(inverse))))
    s.store_i8(to, low)
    s.store_i8(to + 16, high)
    sum0, sum1 = s.isum(low), s.isum(high)
    s.set_f32(to + tile.SCALE, d)
    s.set_i32(to + tile.NEGSUM, -(sum0 + sum1))
    s.set_i32(to + tile.NEGSUMS[0], -sum0)
    s.set_i32(to + tile.NEGSUMS[1], -sum1)
    s.set_f32(to + tile.SUM, d * f32(sum0 + sum1))
    s.set_f32(to + tile.SUMS[0], d * f32(sum0))
    s.set_f32(to + tile.SUMS[1], d * f32(sum1))


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
    """Kernel `prepare.i8` or `prepare.exact`: x [n, cols], rows `stride` floats apart -> out;
    header slot `count` holds n. Threads share runs of `per` blocks, a divisor of a row's."""
    block = {"i8": i8_block, "exact": exact_block}[variant]
    size = {"i8": tile.I8_BYTES, "exact": tile.EXACT_BYTES}[variant]

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
