"""Rows of a held matrix as floats: token embeddings, and exact values for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from rbee_worker.ops.cpu.compiler import emit as e
from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr, op
from rbee_worker.ops.cpu.compiler.vec import Pen, Vec
from rbee_worker.ops.cpu.kernels.product.blocks import BLOCKS, floats
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.shared import step as header
from rbee_worker.ops.cpu.shared.held import HELD

f32 = np.float32


def _columns(pen: Pen, p: e.Value, j: e.Value, name: str) -> list[Vec]:
    """The 32 columns of block j of the unit at p; a vector has 16 rows."""
    unit = pen.ref(p)
    if HELD[name].is_float:
        column = floats(pen, unit, name)
        return [column(k) for k in range(32)]
    unpack, shape = BLOCKS[name]
    block = unpack(pen, unit, pen.ref(j))
    out = []
    for k in range(32):
        number = (((block.w[k // 4] >> (8 * (k % 4))) & 0xFF) - shape.offset).to_f32()
        d = block.d[k // 16]
        out.append(d * number if block.m is None else d.fma(number, block.m[k // 16]))
    return out


def _lane(name: str) -> Any:
    """An operation (p, j, lane, scale, to): block j of one row as 32 floats, times scale."""

    def write(
        b: e.Builder, t: str, p: e.Value, j: e.Value, lane: e.Value, scale: e.Value, to: e.Value
    ) -> None:
        index = b.trunc(lane, e.i32)
        for k, column in enumerate(_columns(Pen(b, t), p, j, name)):
            one = b.extract_element(column.value, index)
            e.store(b, e.at(b, to, 4 * k), b.fmul(one, scale), 4)

    return op(s.Void, Ptr, Int, Int, Float, Ptr, target=True)(write)


def _add(variant: str) -> Kernel:
    """y[t] = x[t] + row (ids[t] + offset) of w; header slot `ids` holds the address of int64 ids.
    Rows of y have room for whole blocks of 32."""
    columns, unit = HELD[variant].columns, HELD[variant].nbytes
    lane = _lane(variant)

    def run(
        step: Ptr, tid: Int, nt: Int,
        w: Ptr, x: Ptr, x_stride: Int, cols: Int, ids: Int, offset: Int, y: Ptr, y_stride: Int,
        rows: Int,
    ) -> None:  # fmt: skip
        n, numbers = s.get_i64(step + header.N), s.get_i64(step + 8 * ids)
        units, per = s.idiv(cols + columns - 1, columns), s.idiv(columns, 32)
        for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
            row = s.get_i64(numbers + 8 * t) + offset
            if row < 0 or row >= rows:
                row = 0
            source, to = x + 4 * t * x_stride, y + 4 * t * y_stride
            for b in range(s.idiv(cols + 31, 32)):
                p = w + (s.idiv(row, 16) * units + s.idiv(b, per)) * unit
                lane(p, s.imod(b, per), s.imod(row, 16), f32(1.0), to + 128 * b)
            for i in range(0, cols, 16):
                v = s.add(load_upto(source + 4 * i, cols - i), load_upto(to + 4 * i, cols - i))
                store_upto(to + 4 * i, v, cols - i)

    return kernel(f"embed.{variant}-add")(run)


def _features(step: Ptr, tid: Int, nt: Int, y: Ptr, y_stride: Int, cols: Int) -> None:
    """Replace the rows of y [N, cols] that take features of pictures. Threads share rows."""
    rows, values = s.get_i64(step + header.FEATURE_ROWS), s.get_i64(step + header.FEATURES)
    if rows == 0:
        return
    n = s.get_i64(step + header.N)
    for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
        row = s.get_i64(rows + 8 * t)
        if row >= 0:
            source, to = values + 4 * row * cols, y + 4 * t * y_stride
            for i in range(0, cols, 16):
                store_upto(to + 4 * i, load_upto(source + 4 * i, cols - i), cols - i)


def build(variant: str) -> Kernel:
    """Kernel `embed.<held format>`: y[t] = scale * row ids[t] of w; header slot `count` holds n,
    slot `ids` the address of int64 ids. Rows of y have room for whole blocks of 32.
    `embed.<held>-add`: see `_add`; `embed.features`: see `_features`."""
    if variant == "features":
        return kernel("embed.features")(_features)
    if variant.endswith("-add"):
        return _add(variant.removesuffix("-add"))
    columns, unit = HELD[variant].columns, HELD[variant].nbytes
    lane = _lane(variant)

    def run(
        step: Ptr, tid: Int, nt: Int,
        w: Ptr, cols: Int, scale: Float, ids: Int, count: Int, y: Ptr, y_stride: Int,
        rows: Int,
    ) -> None:  # fmt: skip
        n, tokens = s.get_i64(step + 8 * count), s.get_i64(step + 8 * ids)
        units, per = s.idiv(cols + columns - 1, columns), s.idiv(columns, 32)
        blocks = s.idiv(cols + 31, 32)
        for item in range(s.idiv(tid * n * blocks, nt), s.idiv((tid + 1) * n * blocks, nt)):
            t, b = s.idiv(item, blocks), s.imod(item, blocks)
            row = s.get_i64(tokens + 8 * t)
            if row < 0 or row >= rows:
                row = 0
            p = w + (s.idiv(row, 16) * units + s.idiv(b, per)) * unit
            lane(p, s.imod(b, per), s.imod(row, 16), scale, y + 4 * (t * y_stride + 32 * b))

    return kernel(f"embed.{variant}")(run)
