"""Columns copied and scaled: heads split and joined, gates, factors. Threads share rows."""

from __future__ import annotations

from collections.abc import Callable

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.shared import step as header


@device
def scaled(x: Ptr, factor: Float, y: Ptr, width: Int) -> None:
    """y = x * factor, `width` floats."""
    v = s.fill(factor)
    for i in range(0, width, 16):
        store_upto(y + 4 * i, s.mul(load_upto(x + 4 * i, width - i), v), width - i)


def _copy(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, x_head: Int, y: Ptr, y_stride: Int, y_head: Int, heads: Int, width: Int,
) -> None:  # fmt: skip
    """Copy `width` columns of each head; heads are x_head and y_head floats apart."""
    n = s.get_i64(step + header.N)
    for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
        for h in range(heads):
            source, to = x + 4 * (t * x_stride + h * x_head), y + 4 * (t * y_stride + h * y_head)
            for i in range(0, width, 16):
                store_upto(to + 4 * i, load_upto(source + 4 * i, width - i), width - i)


def _gate(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, z: Ptr, z_stride: Int, y: Ptr, y_stride: Int, width: Int,
) -> None:  # fmt: skip
    """y = x * z; z has one column."""
    n = s.get_i64(step + header.N)
    for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
        scaled(x + 4 * t * x_stride, s.get_f32(z + 4 * t * z_stride), y + 4 * t * y_stride, width)


def _scale(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, vector: Ptr, y: Ptr, y_stride: Int, width: Int,
) -> None:  # fmt: skip
    """y = x * vector, which has a factor for each column."""
    n = s.get_i64(step + header.N)
    for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
        for i in range(0, width, 16):
            left = width - i
            v = s.mul(load_upto(x + 4 * (t * x_stride + i), left), load_upto(vector + 4 * i, left))
            store_upto(y + 4 * (t * y_stride + i), v, left)


def _position(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, factors: Ptr, count: Int, every: Int, offset: Int, y: Ptr,
    y_stride: Int, width: Int,
) -> None:  # fmt: skip
    """y = x * factors[(position + offset) // every], or the last of `count` factors beyond them."""
    n, positions = s.get_i64(step + header.N), s.get_i64(step + header.POSITIONS)
    for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
        p = s.idiv(s.get_i64(positions + 8 * t) + offset, every)
        factor = s.get_f32(factors + 4 * s.smaller(p, count - 1))
        scaled(x + 4 * t * x_stride, factor, y + 4 * t * y_stride, width)


_KINDS: dict[str, Callable[..., None]] = {
    "copy": _copy,
    "gate": _gate,
    "scale": _scale,
    "position": _position,
}


def build(variant: str) -> Kernel:
    """`columns.copy`, `columns.gate`, `columns.scale` or `columns.position`."""
    return kernel(f"columns.{variant}")(_KINDS[variant])
