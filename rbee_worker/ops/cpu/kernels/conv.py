"""Causal convolutions per column, with the rows before a step in a slot.

Threads share cells of 16 columns of each sequence. Products are summed from the oldest row on, the
bias is added last, and each is rounded: a row's result depends only on itself and the rows before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr, Vector
from rbee_worker.ops.cpu.kernels import vmath
from rbee_worker.ops.cpu.kernels.each import ACTS
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.kernels.slots import first_row, kept_of
from rbee_worker.ops.cpu.shared import step as header

CELL = 16  # columns


@device
def _row(kept: Ptr, x: Ptr, stride: Int, width: Int, before: Int, n: Int, left: Int) -> Vector:
    """Row n of a sequence, counted from the first of the `before` rows in its slot."""
    if n < before:
        return load_upto(kept + 4 * n * width, left)
    return load_upto(x + 4 * (n - before) * stride, left)


def _causal(act: Callable[..., Any]) -> Callable[..., None]:
    def run(
        step: Ptr, tid: Int, nt: Int,
        x: Ptr, x_stride: Int, taps: Ptr, count: Int, bias: Ptr, y: Ptr, y_stride: Int,
        group: Int, tensor: Int, slot_bytes: Int, layer: Int, width: Int,
    ) -> None:  # fmt: skip
        """`Recurrences.causal_conv`. group, tensor, layer, slot_bytes: see `kept_of`."""
        sequences = s.get_i64(step + header.B)
        before = count - 1
        items = s.idiv(width + CELL - 1, CELL) * sequences
        for item in range(share(tid, nt, items), share(tid + 1, nt, items)):
            i, q = CELL * s.idiv(item, sequences), s.imod(item, sequences)
            left = width - i
            kept = kept_of(step, group, tensor, layer, slot_bytes, q) + 4 * i
            first, end = first_row(step, q), first_row(step, q + 1)
            rows = x + 4 * (first * x_stride + i)
            for n in range(end - first):
                total = s.zeros()
                for k in range(count):
                    v = _row(kept, rows, x_stride, width, before, n + k, left)
                    total = s.add(total, s.mul(load_upto(taps + 4 * (k * width + i), left), v))
                if bias != 0:
                    total = s.add(total, load_upto(bias + 4 * i, left))
                store_upto(y + 4 * ((first + n) * y_stride + i), act(total), left)
            for k in range(before):  # a row is overwritten after it was read
                v = _row(kept, rows, x_stride, width, before, end - first + k, left)
                store_upto(kept + 4 * k * width, v, left)

    return run


def build(variant: str) -> Kernel:
    """`conv.causal`, or `conv.causal-<kind>` with an activation."""
    _, _, kind = variant.partition("-")
    number = ACTS.index(kind) if kind else 0

    @device
    def act(x: Vector) -> Vector:
        return vmath.activate(x, number)

    @device
    def same(x: Vector) -> Vector:
        return x

    return kernel(f"conv.{variant}")(_causal(act if kind else same))
