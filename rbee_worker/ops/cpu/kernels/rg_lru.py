"""RG-LRU's recurrence over the rows of each sequence. Threads share cells of 16 columns of each
sequence; product and sum are rounded separately, as in `scan.linear`.
"""

from __future__ import annotations

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.kernels import vmath
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.kernels.slots import first_row, kept_of
from rbee_worker.ops.cpu.shared import step as header

CELL = 16  # columns


def _rows(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, into: Ptr, into_stride: Int, passing: Ptr, passing_stride: Int,
    into_bias: Ptr, passing_bias: Ptr, rates: Ptr, y: Ptr, y_stride: Int,
    group: Int, tensor: Int, slot_bytes: Int, layer: Int, width: Int,
) -> None:  # fmt: skip
    """`RgLru.rg_lru`. group, tensor, layer, slot_bytes: see `kept_of`."""
    sequences = s.get_i64(step + header.B)
    positions = s.get_i64(step + header.POSITIONS)
    items = s.idiv(width + CELL - 1, CELL) * sequences
    for item in range(share(tid, nt, items), share(tid + 1, nt, items)):
        i, q = CELL * s.idiv(item, sequences), s.imod(item, sequences)
        left = width - i
        kept = kept_of(step, group, tensor, layer, slot_bytes, q) + 4 * i
        rate, more = load_upto(rates + 4 * i, left), load_upto(into_bias + 4 * i, left)
        pass_more = load_upto(passing_bias + 4 * i, left)
        h = load_upto(kept, left)
        for t in range(first_row(step, q), first_row(step, q + 1)):
            gate = vmath.sigmoid(s.add(load_upto(into + 4 * (t * into_stride + i), left), more))
            given = s.mul(gate, load_upto(x + 4 * (t * x_stride + i), left))
            row = load_upto(passing + 4 * (t * passing_stride + i), left)
            power = s.mul(rate, vmath.sigmoid(s.add(row, pass_more)))
            if s.get_i64(positions + 8 * t) == 0:
                h = given
            else:
                size = s.sqrt(vmath.one_minus_exp(s.add(power, power)))
                h = s.add(s.mul(vmath.exp_weight(power), h), s.mul(size, given))
            store_upto(y + 4 * (t * y_stride + i), h, left)
        store_upto(kept, h, left)


def build(variant: str) -> Kernel:
    """`rg_lru.rows`"""
    return kernel(f"rg_lru.{variant}")(_rows)
