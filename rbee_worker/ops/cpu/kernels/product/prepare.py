"""Activations prepared for a matrix product: in groups of 8 tokens, block by block.

`steps.py` describes a block. i8: d = max |x| / 127 over 32 columns, as in ggml's Q8_0. i16: d =
max |x| / (127 * 256). k8, k16: one d for 256 columns (`k_steps.py`). b16: bfloat16, to nearest.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr, Vector
from rbee_worker.ops.cpu.kernels.product import k_steps, steps
from rbee_worker.ops.cpu.shared.forms import BYTES, LOW, SCALE, SUM, UNIT, UNITS

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
    s.set_f32(to + SCALE, d)
    s.set_i32(to + steps.LESS8, -8 * (sum0 + sum1))
    s.set_i32(to + steps.LESS128, -128 * (sum0 + sum1))
    s.set_f32(to + SUM, d * f32(sum0 + sum1))
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
    _planes(low, to)
    _planes(high, to + 16)


@device
def _planes(q: Vector, to: Ptr) -> tuple[Int, Int]:
    """Write 16 numbers as bytes u and v; returns the sums of both."""
    u = s.sar(s.iadd(q, s.fill_i32(128)), 8)
    v = s.isub(q, s.shl(u, 8))
    s.store_i8(to, u)
    s.store_i8(to + LOW, v)
    return s.isum(u), s.isum(v)


def unit(form: str) -> Callable[[Ptr, Ptr], None]:
    """A device function `(p, to)`: the 256 floats at p as blocks with one scale."""
    two = form == "k16"
    most, block_step = f32(32512.0 if two else 127.0), k_steps.block_step(form)

    (high0, high1), (low0, low1), (sum0, sum1) = k_steps.LESS_HIGH, k_steps.LESS_LOW, k_steps.SUMS

    @device
    def run(p: Ptr, to: Ptr) -> None:
        top, lost = s.zeros(), s.zeros()
        for i in range(0, UNIT, 16):
            v = s.load_f32(p + 4 * i)
            top = s.maximum(top, s.magnitude(v))
            lost = s.add(lost, s.mul(v, s.zeros()))  # a nan or infinity makes the scale nan
        largest = s.largest(top)
        inverse = s.fill(most / largest if largest > f32(0.0) else f32(0.0))
        d = largest / most + s.total(lost)
        for i in range(0, UNIT, 32):
            s.set_f32(to + SCALE, d)
            total = 0
            for half in range(2):
                q = s.to_i32(s.nearest(s.mul(s.load_f32(p + 4 * i + 64 * half), inverse)))
                at, part = to + 16 * half, 0
                if two:
                    high, low = _planes(q, at)
                    s.set_i32(to + low0 + half * (low1 - low0), -32 * low)
                    part = 256 * high + low
                else:
                    s.store_i8(at, q)
                    high = s.isum(q)
                    part = high
                s.set_i32(to + high0 + half * (high1 - high0), -32 * high)
                s.set_f32(to + sum0 + half * (sum1 - sum0), d * f32(part))
                total += part
            s.set_f32(to + SUM, d * f32(total))
            to += block_step

    return run


@device
def exact_block(a: Vector, b: Vector, to: Ptr) -> None:
    """32 floats and their sums, unrounded."""
    s.store_f32(to, a)
    s.store_f32(to + 64, b)
    sum0, sum1 = s.total(a), s.total(b)
    s.set_f32(to + steps.EXACT_SUM, sum0 + sum1)
    s.set_f32(to + steps.EXACT_SUMS[0], sum0)
    s.set_f32(to + steps.EXACT_SUMS[1], sum1)


@device
def b16_block(a: Vector, b: Vector, to: Ptr) -> None:
    """32 floats as bfloat16."""
    s.store_bf16(to, a)
    s.store_bf16(to + 32, b)


def _by_units(form: str) -> Callable[..., None]:
    make, size = unit(form), BYTES[form]

    def run(
        step: Ptr, tid: Int, nt: Int,
        x: Ptr, stride: Int, cols: Int, out: Ptr, count: Int, per: Int,
    ) -> None:  # fmt: skip
        """As in `build`; `cols` and `per` blocks are whole numbers of units."""
        blocks = s.idiv(cols, 32)
        runs = s.get_i64(step + 8 * count) * s.idiv(blocks, per)
        first, last = s.idiv(tid * runs, nt) * per, s.idiv((tid + 1) * runs, nt) * per
        for item in range(first, last, k_steps.CELLS):
            t, b = s.idiv(item, blocks), s.imod(item, blocks)
            place = (s.idiv(t, 8) * blocks + b) * 8 + s.imod(t, 8)
            make(x + 4 * (t * stride + 32 * b), out + size * place)

    return run


_BLOCKS: dict[str, Callable[..., None]] = {
    "i8": i8_block,
    "i16": i16_block,
    "exact": exact_block,
    "b16": b16_block,
}


def build(variant: str) -> Kernel:
    """Kernel `prepare.<form>`: x [n, cols], its rows `stride` floats apart -> out. Header slot
    `count` holds n. Threads share runs of `per` blocks; `per` divides the blocks of a row."""
    if variant in UNITS:
        return kernel(f"prepare.{variant}")(_by_units(variant))
    block = _BLOCKS[variant]
    size = BYTES[variant]

    def run(
        step: Ptr, tid: Int, nt: Int,
        x: Ptr, stride: Int, cols: Int, out: Ptr, count: Int, per: Int,
    ) -> None:  # fmt: skip
        n = s.get_i64(step + 8 * count)
        blocks = s.idiv(cols + 31, 32)
        runs = n * s.idiv(blocks, per)
        first, last = s.idiv(tid * runs, nt) * per, s.idiv((tid + 1) * runs, nt) * per
        t = s.idiv(first, blocks)
        b = first - t * blocks
        while first < last:
            end = s.smaller(blocks, b + last - first)
            first += end - b
            p = x + 4 * t * stride
            to = out + size * ((t >> 3) * 8 * blocks + (t & 7))
            for n in range(b, end):
                at, left = p + 128 * n, cols - 32 * n
                if left >= 32:
                    block(s.load_f32(at), s.load_f32(at + 64), to + 8 * size * n)
                else:
                    a, rest = s.load_first(at, left), s.load_first(at + 64, left - 16)
                    block(a, rest, to + 8 * size * n)
            t += 1
            b = 0

    return kernel(f"prepare.{variant}")(run)
