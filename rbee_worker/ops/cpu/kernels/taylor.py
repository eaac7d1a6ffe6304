"""Based's linear attention over the rows of each sequence, with its sums in a slot.

Threads share cells of 16 columns of each head and sequence; a head has one column more than its
values, of ones, whose sum divides the others. A row's sums have one order, so its result depends
only on the state before it. `ops/taylor.py` has the order of the states.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr, Vector
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.kernels.slots import first_row, kept_of
from rbee_worker.ops.cpu.shared import step as header

CELL = 16  # columns
f32 = np.float32


@device
def _one_at(lane: Int) -> Vector:
    """1 in that lane, 0 in all others; no lane has a number above 15."""
    behind = s.where_less_i32(s.lanes(), s.fill_i32(lane + 1), s.fill(f32(1.0)), s.zeros())
    return s.where_less_i32(s.lanes(), s.fill_i32(lane), s.zeros(), behind)


@device
def _row(kept: Ptr, key: Ptr, query: Ptr, value: Vector, size: Int, scale: Float) -> Vector:
    """Add a row to the sums of a cell, and give what its query makes of them.

    With x = q k / sqrt(size): x is a sum over i of q_i k_i, and x^2 / 2 the sum over i of
    q_i k_i * (q_i k_i / 2 + the sum over j < i of q_j k_j), each over the root of size.
    """
    total = s.add(s.load_f32(kept), value)
    s.store_f32(kept, total)
    at = kept + 4 * CELL
    for i in range(size):
        given = s.mul(s.splat_f32(key + 4 * i), value)
        alone = s.add(s.load_f32(at), given)
        s.store_f32(at, alone)
        at += 4 * CELL
        mixed = s.zeros()
        for j in range(i):
            h = s.fma(s.splat_f32(key + 4 * j), given, s.load_f32(at))
            s.store_f32(at, h)
            mixed = s.fma(s.splat_f32(query + 4 * j), h, mixed)
            at += 4 * CELL
        h = s.fma(s.splat_f32(key + 4 * i), given, s.load_f32(at))
        s.store_f32(at, h)
        at += 4 * CELL
        out = s.splat_f32(query + 4 * i)
        mixed = s.fma(s.mul(out, s.fill(f32(0.5))), h, mixed)
        alone = s.fma(s.fill(scale), mixed, alone)
        total = s.fma(s.mul(out, s.fill(scale)), alone, total)
    return total


def _sums(
    step: Ptr, tid: Int, nt: Int,
    q: Ptr, q_stride: Int, k: Ptr, k_stride: Int, x: Ptr, x_stride: Int, y: Ptr, y_stride: Int,
    group: Int, tensor: Int, slot_bytes: Int, layer: Int, heads: Int, columns: Int, size: Int,
) -> None:  # fmt: skip
    """The sums of `Taylor.taylor`, [N, heads * (columns + 1)]; x: its v. group, tensor, layer,
    slot_bytes: see `kept_of`."""
    sequences = s.get_i64(step + header.B)
    cells = s.idiv(columns + CELL, CELL)  # of a head
    states = 1 + s.idiv(size * (size + 3), 2)
    items = heads * cells * sequences
    scale = f32(1.0) / s.sqrt_f32(f32(size))
    for item in range(share(tid, nt, items), share(tid + 1, nt, items)):
        cell, b = s.idiv(item, sequences), s.imod(item, sequences)
        head, part = s.idiv(cell, cells), CELL * s.imod(cell, cells)
        left = columns - part
        ones, mine = _one_at(left), 4 * head * size
        kept = kept_of(step, group, tensor, layer, slot_bytes, b) + 4 * CELL * states * cell
        for t in range(first_row(step, b), first_row(step, b + 1)):
            value = s.add(load_upto(x + 4 * (t * x_stride + head * columns + part), left), ones)
            key, query = k + 4 * t * k_stride + mine, q + 4 * t * q_stride + mine
            total = _row(kept, key, query, value, size, scale)
            store_upto(y + 4 * (t * y_stride + head * (columns + 1) + part), total, left + 1)


def _quotients(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, y: Ptr, y_stride: Int, heads: Int, columns: Int,
) -> None:  # fmt: skip
    """Each head's sums, divided by the last of them."""
    items = s.get_i64(step + header.N) * heads
    for item in range(share(tid, nt, items), share(tid + 1, nt, items)):
        t, head = s.idiv(item, heads), s.imod(item, heads)
        sums = x + 4 * (t * x_stride + head * (columns + 1))
        to = y + 4 * (t * y_stride + head * columns)
        whole = s.splat_f32(sums + 4 * columns)
        for i in range(0, columns, CELL):
            left = columns - i
            store_upto(to + 4 * i, s.div(load_upto(sums + 4 * i, left), whole), left)


_KINDS: dict[str, Callable[..., None]] = {"sums": _sums, "quotients": _quotients}


def build(variant: str) -> Kernel:
    """`taylor.sums` or `taylor.quotients`."""
    return kernel(f"taylor.{variant}")(_KINDS[variant])
