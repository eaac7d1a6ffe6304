"""Gated delta rules over the rows of each sequence, with their state in a slot.

Threads share cells of 16 columns of each head and sequence. A row's sums have one order, so its
result depends only on the state before it.
"""

from __future__ import annotations

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels import vmath
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.kernels.slots import first_row, kept_of
from rbee_worker.ops.cpu.shared import step as header

CELL = 16  # columns
f32 = np.float32


@device
def _one_over_length(x: Ptr, states: Int) -> Float:
    """1 / sqrt(sum of squares + 1e-6)"""
    total = s.zeros()
    for i in range(0, states, CELL):
        v = load_upto(x + 4 * i, states - i)
        total = s.fma(v, v, total)
    return f32(1.0) / s.sqrt_f32(s.total(total) + f32(1e-6))


def _gated(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, q: Ptr, q_stride: Int, k: Ptr, k_stride: Int, dt: Ptr, dt_stride: Int,
    beta: Ptr, beta_stride: Int, bias: Ptr, rates: Ptr, y: Ptr, y_stride: Int,
    group: Int, tensor: Int, slot_bytes: Int, layer: Int,
    heads: Int, columns: Int, groups: Int, states: Int,
) -> None:  # fmt: skip
    """`GatedDelta.gated_delta`; x: its v. group, tensor, layer, slot_bytes: see `kept_of`."""
    sequences = s.get_i64(step + header.B)
    cells = s.idiv(columns + CELL - 1, CELL)  # of a head
    items = heads * cells * sequences
    scale = f32(1.0) / s.sqrt_f32(f32(states))
    for item in range(share(tid, nt, items), share(tid + 1, nt, items)):
        cell, b = s.idiv(item, sequences), s.imod(item, sequences)
        head, part = s.idiv(cell, cells), CELL * s.imod(cell, cells)
        left, at = columns - part, 4 * (head * columns + part)
        mine = 4 * states * s.idiv(head * groups, heads)  # where the group's q and k begin
        rate, more = s.splat_f32(rates + 4 * head), s.splat_f32(bias + 4 * head)
        kept = kept_of(step, group, tensor, layer, slot_bytes, b) + 4 * CELL * states * cell
        for t in range(first_row(step, b), first_row(step, b + 1)):
            into, out = k + 4 * t * k_stride + mine, q + 4 * t * q_stride + mine
            unit = s.fill(_one_over_length(into, states))
            size = vmath.softplus(s.add(s.splat_f32(dt + 4 * (t * dt_stride + head)), more))
            decay = vmath.exp_weight(s.mul(size, rate))
            known = s.zeros()
            for n in range(states):
                h = s.mul(decay, s.load_f32(kept + 4 * CELL * n))
                s.store_f32(kept + 4 * CELL * n, h)
                known = s.fma(h, s.splat_f32(into + 4 * n), known)
            new = s.sub(load_upto(x + 4 * t * x_stride + at, left), s.mul(known, unit))
            share_of = vmath.sigmoid(s.splat_f32(beta + 4 * (t * beta_stride + head)))
            new = s.mul(s.mul(new, share_of), unit)
            total = s.zeros()
            for n in range(states):
                h = s.load_f32(kept + 4 * CELL * n)
                h = s.add(h, s.mul(new, s.splat_f32(into + 4 * n)))
                s.store_f32(kept + 4 * CELL * n, h)
                total = s.fma(h, s.splat_f32(out + 4 * n), total)
            total = s.mul(total, s.fill(_one_over_length(out, states) * scale))
            store_upto(y + 4 * t * y_stride + at, total, left)


def build(variant: str) -> Kernel:
    """`delta.gated`"""
    return kernel(f"delta.{variant}")(_gated)
