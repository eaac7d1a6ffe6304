"""Linear recurrences over the rows of each sequence, with their state in a slot.

Threads share cells of 16 columns of each sequence. The rows of a sequence are taken in order, and
product and sum are rounded separately, so a row's result depends only on the state before it.
"""

from __future__ import annotations

from collections.abc import Callable

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.kernels import vmath
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.kernels.slots import first_row, kept_of
from rbee_worker.ops.cpu.shared import step as header

CELL = 16  # columns; ops/cells.py describes the memory layout of states


def _linear(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, decay: Ptr, decay_stride: Int, y: Ptr, y_stride: Int,
    group: Int, tensor: Int, slot_bytes: Int, layer: Int, width: Int,
) -> None:  # fmt: skip
    """h = decay * h + x; y = h. group, tensor, layer, slot_bytes: see `kept_of`, also below."""
    sequences = s.get_i64(step + header.B)
    items = s.idiv(width + CELL - 1, CELL) * sequences
    for item in range(share(tid, nt, items), share(tid + 1, nt, items)):
        i, b = CELL * s.idiv(item, sequences), s.imod(item, sequences)
        left = width - i
        kept = kept_of(step, group, tensor, layer, slot_bytes, b) + 4 * i
        h = load_upto(kept, left)
        for t in range(first_row(step, b), first_row(step, b + 1)):
            a = load_upto(decay + 4 * (t * decay_stride + i), left)
            h = s.add(s.mul(a, h), load_upto(x + 4 * (t * x_stride + i), left))
            store_upto(y + 4 * (t * y_stride + i), h, left)
        store_upto(kept, h, left)


def _selective(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, dt: Ptr, dt_stride: Int, b: Ptr, b_stride: Int, c: Ptr, c_stride: Int,
    gate: Ptr, gate_stride: Int, rates: Ptr, skip: Ptr, y: Ptr, y_stride: Int,
    group: Int, tensor: Int, slot_bytes: Int, layer: Int, width: Int, states: Int,
) -> None:  # fmt: skip
    """`Recurrences.selective_scan`."""
    sequences = s.get_i64(step + header.B)
    items = s.idiv(width + CELL - 1, CELL) * sequences
    for item in range(share(tid, nt, items), share(tid + 1, nt, items)):
        cell, q = s.idiv(item, sequences), s.imod(item, sequences)
        i, own = CELL * cell, 4 * CELL * states * cell
        left = width - i
        kept = kept_of(step, group, tensor, layer, slot_bytes, q) + own
        for t in range(first_row(step, q), first_row(step, q + 1)):
            v = load_upto(x + 4 * (t * x_stride + i), left)
            size = vmath.softplus(load_upto(dt + 4 * (t * dt_stride + i), left))
            u = s.mul(size, v)
            into, out = b + 4 * t * b_stride, c + 4 * t * c_stride
            total = s.zeros()
            for n in range(states):
                decay = vmath.exp_weight(s.mul(size, s.load_f32(rates + own + 4 * CELL * n)))
                h = s.mul(decay, s.load_f32(kept + 4 * CELL * n))
                h = s.add(h, s.mul(u, s.splat_f32(into + 4 * n)))
                s.store_f32(kept + 4 * CELL * n, h)
                total = s.fma(h, s.splat_f32(out + 4 * n), total)
            total = s.fma(load_upto(skip + 4 * i, left), v, total)
            z = load_upto(gate + 4 * (t * gate_stride + i), left)
            z = s.mul(z, vmath.sigmoid(z))
            store_upto(y + 4 * (t * y_stride + i), s.mul(total, z), left)


def _heads(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, dt: Ptr, dt_stride: Int, b: Ptr, b_stride: Int, c: Ptr, c_stride: Int,
    gate: Ptr, gate_stride: Int, bias: Ptr, rates: Ptr, skip: Ptr, y: Ptr, y_stride: Int,
    group: Int, tensor: Int, slot_bytes: Int, layer: Int,
    heads: Int, columns: Int, groups: Int, states: Int,
) -> None:  # fmt: skip
    """`Recurrences.ssd`; a cell is of one head."""
    sequences = s.get_i64(step + header.B)
    cells = s.idiv(columns + CELL - 1, CELL)  # of a head
    items = heads * cells * sequences
    for item in range(share(tid, nt, items), share(tid + 1, nt, items)):
        cell, q = s.idiv(item, sequences), s.imod(item, sequences)
        head, part = s.idiv(cell, cells), CELL * s.imod(cell, cells)
        left, at = columns - part, 4 * (head * columns + part)
        mine = 4 * states * s.idiv(head * groups, heads)  # where the group's b and c begin
        rate, more = s.splat_f32(rates + 4 * head), s.splat_f32(bias + 4 * head)
        passed = s.splat_f32(skip + 4 * head)
        kept = kept_of(step, group, tensor, layer, slot_bytes, q) + 4 * CELL * states * cell
        for t in range(first_row(step, q), first_row(step, q + 1)):
            v = load_upto(x + 4 * t * x_stride + at, left)
            size = vmath.softplus(s.add(s.splat_f32(dt + 4 * (t * dt_stride + head)), more))
            decay, u = vmath.exp_weight(s.mul(size, rate)), s.mul(size, v)
            into, out = b + 4 * t * b_stride + mine, c + 4 * t * c_stride + mine
            total = s.mul(passed, v)
            for n in range(states):
                h = s.mul(decay, s.load_f32(kept + 4 * CELL * n))
                h = s.add(h, s.mul(u, s.splat_f32(into + 4 * n)))
                s.store_f32(kept + 4 * CELL * n, h)
                total = s.fma(h, s.splat_f32(out + 4 * n), total)
            if gate != 0:
                z = load_upto(gate + 4 * t * gate_stride + at, left)
                total = s.mul(total, s.mul(z, vmath.sigmoid(z)))
            store_upto(y + 4 * t * y_stride + at, total, left)


_KINDS: dict[str, Callable[..., None]] = {
    "linear": _linear,
    "selective": _selective,
    "heads": _heads,
}


def build(variant: str) -> Kernel:
    """`scan.linear`, `scan.selective` or `scan.heads`."""
    return kernel(f"scan.{variant}")(_KINDS[variant])
