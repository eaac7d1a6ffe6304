"""Norms over each of `heads` equal parts of a row. Threads share rows.

Columns are summed in 16 lanes in ascending order and the lanes joined by the fixed tree, so a row's
result depends on the row alone. Strides are in floats. `weight` and `bias` are 0 for none.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.shared import step as header

f32 = np.float32


@device
def scale_part(x: Ptr, width: Int, mean: Float, eps: Float, weight: Ptr, bias: Ptr, y: Ptr) -> None:
    """y = (x - mean) / sqrt(mean((x - mean)^2) + eps) * weight + bias."""
    shift = s.fill(mean)
    squares = s.zeros()
    for i in range(0, width, 16):
        v = load_upto(x + 4 * i, width - i)
        d = s.sub(v, shift)
        left = width - i
        if left < 16:  # lanes beyond the end hold -mean
            d = s.where_less_i32(s.lanes(), s.fill_i32(left), d, s.zeros())
        squares = s.fma(d, d, squares)
    r = s.fill(f32(1.0) / s.sqrt_f32(s.total(squares) / f32(width) + eps))
    for i in range(0, width, 16):
        left = width - i
        v = s.mul(s.sub(load_upto(x + 4 * i, left), shift), r)
        if weight != 0:
            v = s.mul(v, load_upto(weight + 4 * i, left))
        if bias != 0:
            v = s.add(v, load_upto(bias + 4 * i, left))
        store_upto(y + 4 * i, v, left)


@device
def mean_of(x: Ptr, width: Int) -> Float:
    """Mean of `width` floats."""
    sums = s.zeros()
    for i in range(0, width, 16):
        sums = s.add(sums, load_upto(x + 4 * i, width - i))
    return s.total(sums) / f32(width)


def _rms(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, y: Ptr, y_stride: Int, weight: Ptr, eps: Float, heads: Int, width: Int,
) -> None:  # fmt: skip
    n = s.get_i64(step + header.N)
    for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
        for h in range(heads):
            at = 4 * h * width
            source, to = x + 4 * t * x_stride + at, y + 4 * t * y_stride + at
            scale_part(source, width, f32(0.0), eps, weight, 0, to)


def _layer(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, y: Ptr, y_stride: Int, weight: Ptr, bias: Ptr,
    eps: Float, heads: Int, width: Int,
) -> None:  # fmt: skip
    n = s.get_i64(step + header.N)
    for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
        for h in range(heads):
            at = 4 * h * width
            source, to = x + 4 * t * x_stride + at, y + 4 * t * y_stride + at
            scale_part(source, width, mean_of(source, width), eps, weight, bias, to)


def _heads(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, y: Ptr, y_stride: Int, weight: Ptr, bias: Ptr,
    eps: Float, heads: Int, width: Int,
) -> None:  # fmt: skip
    """`_layer` with weights and biases of its own for each head."""
    n = s.get_i64(step + header.N)
    for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
        for h in range(heads):
            at = 4 * h * width
            source, to = x + 4 * t * x_stride + at, y + 4 * t * y_stride + at
            mean, own, more = mean_of(source, width), weight, bias
            if weight != 0:
                own = weight + at
            if bias != 0:
                more = bias + at
            scale_part(source, width, mean, eps, own, more, to)


def _add_rms(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, z: Ptr, z_stride: Int, y: Ptr, y_stride: Int, sum_to: Ptr,
    sum_stride: Int, weight: Ptr, eps: Float, width: Int,
) -> None:  # fmt: skip
    """sum_to = x + z; y = its norm."""
    n = s.get_i64(step + header.N)
    for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
        a, b, to = x + 4 * t * x_stride, z + 4 * t * z_stride, sum_to + 4 * t * sum_stride
        for i in range(0, width, 16):
            left = width - i
            v = s.add(load_upto(a + 4 * i, left), load_upto(b + 4 * i, left))
            store_upto(to + 4 * i, v, left)
        scale_part(to, width, f32(0.0), eps, weight, 0, y + 4 * t * y_stride)


_KINDS: dict[str, Callable[..., None]] = {
    "rms": _rms,
    "layer": _layer,
    "heads": _heads,
    "add_rms": _add_rms,
}


def build(variant: str) -> Kernel:
    """`norm.rms`, `norm.layer`, `norm.heads` or `norm.add_rms`."""
    return kernel(f"norm.{variant}")(_KINDS[variant])
