"""Copies of rows of logits in which every token that a mask excludes is at -inf.

Threads share the blocks of all rows as in `sample.scan`, so each reads what it has copied itself.
"""

from __future__ import annotations

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.shared import sampling_memory as r
from rbee_worker.ops.cpu.shared.sampling_memory import BLOCK

f32 = np.float32


def _apply(step: Ptr, tid: Int, nt: Int, vocab: Int, blocks: Int, powers: Ptr) -> None:
    """powers int32 [16]: 1 << lane, which picks each lane's bit of 16."""
    rows, table = s.get_i64(step + r.ROWS), s.get_i64(step + r.RECORDS)
    n = rows * blocks
    picks = s.load_i32(powers)
    for item in range(share(tid, nt, n), share(tid + 1, nt, n)):
        row, block = s.idiv(item, blocks), s.imod(item, blocks)
        record, first = table + r.RECORD * row, block * BLOCK
        bits = s.get_i64(record + r.BITS)
        if bits != 0:
            z = s.get_i64(record + r.WHOLE) + 4 * first
            to, left = s.get_i64(record + r.LOGITS) + 4 * first, vocab - first
            bits += s.idiv(first, 8)
            for i in range(0, s.smaller(left, BLOCK), 16):
                word = s.get_i32(bits + 4 * (i >> 5)) >> (i & 16)
                allowed = s.iand(s.fill_i32(word), picks)
                v = load_upto(z + 4 * i, left - i)
                v = s.where_less_i32(allowed, s.fill_i32(1), s.fill(f32(-np.inf)), v)
                store_upto(to + 4 * i, v, left - i)


def build(variant: str) -> Kernel:
    """`masks.apply`."""
    assert variant == "apply"
    return kernel("masks.apply")(_apply)
