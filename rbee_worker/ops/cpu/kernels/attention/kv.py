"""Writing a step's keys and values into their blocks, in the layout of `paged.py`.

Threads share rows, or heads of rows. int8: scale = max |x| / 127 over a head of one token.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr, Vector
from rbee_worker.ops.cpu.kernels.attention import micro
from rbee_worker.ops.cpu.kernels.shares import load_upto, share
from rbee_worker.ops.cpu.shared import step as header
from rbee_worker.ops.cpu.shared.paged import KEYS

f32 = np.float32


@device
def _scale_of(x: Ptr, dim: Int) -> Float:
    """max |x| / 127; nan if a number is not finite."""
    top, poison = s.zeros(), s.zeros()
    for i in range(0, dim, 16):
        v = load_upto(x + 4 * i, dim - i)
        top = s.maximum(s.magnitude(v), top)
        poison = s.fma(v, s.zeros(), poison)
    return s.largest(top) / f32(127.0) + s.total(poison)


def _put(kind: str) -> Callable[..., Any]:
    """A device function (x, dim, to, stride, scale_to): one head of one token, whose columns are
    `stride` bytes apart."""
    scatter, store = micro.scatter(kind), micro.store(kind)
    size = micro.BYTES[kind]

    @device
    def lay(v: Vector, to: Ptr, stride: Int, left: Int) -> None:
        if stride == size and left >= 16:
            store(v, to)
        else:
            scatter(v, to, stride, s.smaller(left, 16))

    @device
    def plain(x: Ptr, dim: Int, to: Ptr, stride: Int, scale_to: Ptr) -> None:
        for i in range(0, dim, 16):
            v = load_upto(x + 4 * i, dim - i)
            lay(v, to + i * stride, stride, dim - i)

    @device
    def scaled(x: Ptr, dim: Int, to: Ptr, stride: Int, scale_to: Ptr) -> None:
        scale = _scale_of(x, dim)
        inverse = f32(1.0) / scale if scale > f32(0.0) else f32(0.0)
        s.set_f32(scale_to, scale)
        for i in range(0, dim, 16):
            v = s.nearest(s.mul(load_upto(x + 4 * i, dim - i), s.fill(inverse)))
            lay(v, to + i * stride, stride, dim - i)

    return scaled if size == 1 else plain


def build(variant: str) -> Kernel:
    """`kv.<kind>`: k [N, heads, k_dim] and v [N, heads, v_dim] into a layer of the group at header
    offset `group`, in blocks of `block` tokens. v_dim 0: no values. spread 1: threads share heads
    of rows; 0: rows."""
    put, size = _put(variant), micro.BYTES[variant]
    extra = 4 if size == 1 else 0

    def run(
        step: Ptr, tid: Int, nt: Int,
        k: Ptr, k_stride: Int, v: Ptr, v_stride: Int,
        group: Int, layer: Int, heads: Int, k_dim: Int, v_dim: Int, block: Int,
        spread: Int,
    ) -> None:  # fmt: skip
        n, record = s.get_i64(step + header.N), step + group
        keys = s.get_i64(record + header.K) + layer * s.get_i64(record + header.K_LAYER)
        values = s.get_i64(record + header.V) + layer * s.get_i64(record + header.V_LAYER)
        slots = s.get_i64(record + header.SLOTS)
        per_block = s.idiv(block, KEYS)
        k_group, v_group = KEYS * (k_dim * size + extra), KEYS * (v_dim * size + extra)
        per = heads if spread != 0 else 1
        for item in range(share(tid, nt, n * per), share(tid + 1, nt, n * per)):
            t, one = s.idiv(item, per), s.imod(item, per)
            slot = s.get_i64(slots + 8 * t)
            first = s.idiv(slot, block) * heads * per_block
            within, lane = s.idiv(s.imod(slot, block), KEYS), s.imod(slot, KEYS)
            for h in range(one, one + s.idiv(heads, per)):
                place = first + h * per_block + within
                to = keys + place * k_group
                scales = to + KEYS * k_dim * size + 4 * lane
                x = k + 4 * (t * k_stride + h * k_dim)
                put(x, k_dim, to + lane * size, KEYS * size, scales)
                if v_dim > 0:
                    to = values + place * v_group
                    scales = to + KEYS * v_dim * size + 4 * lane
                    x = v + 4 * (t * v_stride + h * v_dim)
                    put(x, v_dim, to + lane * v_dim * size, size, scales)

    return kernel(f"kv.{variant}")(run)
