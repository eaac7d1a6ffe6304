"""Products with several matrices of one shape: the chosen experts', or one matrix for each head.

The loops are those of `linear.py`: a (row, token) sums its blocks in ascending order in any tile.
Threads share the groups of rows of every matrix in the same way, so the load is even however many
tokens each expert has. Matrices that no token chose are never read.
"""

from __future__ import annotations

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, kernel
from rbee_worker.ops.cpu.compiler.simd import Int, Ptr
from rbee_worker.ops.cpu.kernels.product.linear import product
from rbee_worker.ops.cpu.shared import step as header
from rbee_worker.ops.cpu.shared.expert_lists import ENTRIES, ENTRY_BYTES
from rbee_worker.ops.cpu.shared.forms import BYTES, parse


def build(variant: str) -> Kernel:
    """`stacked.<held>` and `stacked.<held>-<form>`, as for `linear`.

    w: addresses of the members' units; x: prepared activations, `token` bytes a token. With lists
    0, every member takes all rows: member m's columns begin m * x_each bytes after x, its results
    m * y_each floats after y. Otherwise a member takes the slots that `expert_lists.py` gives it,
    and y is [slots, stride]; `by_token` is then 0, or the prepared activations by token, which an
    expert with one slot reads in place. bias: 0, or floats, `bias_each` for each member. streams,
    near, far: see `reading.py`.
    """
    held, form = parse(variant)
    size, times = BYTES[form], product(held.name, form)

    def run(
        step: Ptr, tid: Int, nt: Int,
        w: Ptr, members: Int, x: Ptr, x_each: Int, token: Int, by_token: Ptr, lists: Ptr,
        tokens: Ptr, y: Ptr, y_each: Int, stride: Int, bias: Ptr, bias_each: Int, cols: Int,
        rows: Int, streams: Int, near: Int, far: Int,
    ) -> None:  # fmt: skip
        groups = s.idiv(rows + 15, 16)
        first, last = s.idiv(tid * groups, nt), s.idiv((tid + 1) * groups, nt)
        n, count = s.get_i64(step + header.N), members
        if lists != 0:
            count = s.get_i64(lists)
        for m in range(count):
            member, from_, to = m, x + m * x_each, y + 4 * m * y_each
            if lists != 0:
                entry = lists + ENTRIES + ENTRY_BYTES * m
                member, slot = s.get_i64(entry), s.get_i64(entry + 8)
                n = s.get_i64(entry + 16)
                from_, to = x + slot * token, y + 4 * slot * stride
                if by_token != 0 and n == 1:
                    t = s.get_i32(tokens + 4 * slot)
                    from_ = by_token + s.idiv(t, 8) * 8 * token + s.imod(t, 8) * size
            b = bias + 4 * member * bias_each if bias != 0 else 0
            at = s.get_i64(w + 8 * member)
            times(
                at, first, last, from_, n, to, stride, b, cols, rows, token, streams, near, far
            )  # fmt: skip

    return kernel(f"stacked.{variant}")(run)
