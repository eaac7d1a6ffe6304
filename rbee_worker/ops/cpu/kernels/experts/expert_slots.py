"""What experts need around their products: rows grouped by expert, gates, and the weighted sum.

`expert_lists.py` describes the layout. `group` is a counting sort by one thread; threads share
slots in `gather`, blocks of slots in `gate`, and rows in `sum`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr, Vector
from rbee_worker.ops.cpu.kernels import vmath
from rbee_worker.ops.cpu.kernels.each import ACTS
from rbee_worker.ops.cpu.kernels.product.prepare import exact_block, i8_block, unit
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.shared import step as header
from rbee_worker.ops.cpu.shared.expert_lists import ENTRIES, ENTRY_BYTES
from rbee_worker.ops.cpu.shared.forms import BYTES, UNIT, at_once

f32 = np.float32


def _group(
    step: Ptr, tid: Int, nt: Int,
    ids: Ptr, ids_stride: Int, top: Int, count: Int, counts: Ptr, lists: Ptr, tokens: Ptr,
    places: Ptr,
) -> None:  # fmt: skip
    """ids int32 [N, top] -> lists, tokens, places."""
    if tid > 0:
        return
    n, slot, found = s.get_i64(step + header.N), 0, 0
    for e in range(count):
        s.set_i64(counts + 8 * e, 0)
    for t in range(n):
        for j in range(top):
            at = counts + 8 * s.get_i32(ids + 4 * (t * ids_stride + j))
            s.set_i64(at, s.get_i64(at) + 1)
    for e in range(count):
        many = s.get_i64(counts + 8 * e)
        s.set_i64(counts + 8 * e, slot)
        if many > 0:
            entry = lists + ENTRIES + ENTRY_BYTES * found
            s.set_i64(entry, e)
            s.set_i64(entry + 8, slot)
            s.set_i64(entry + 16, many)
            slot += (many + 7) & ~7
            found += 1
    s.set_i64(lists, found)
    for t in range(n):
        for j in range(top):
            at = counts + 8 * s.get_i32(ids + 4 * (t * ids_stride + j))
            place = s.get_i64(at)
            s.set_i64(at, place + 1)
            s.set_i32(tokens + 4 * place, t)
            s.set_i32(places + 4 * (t * top + j), place)


def _gather(size: int) -> Callable[..., None]:
    @device
    def copy(x: Ptr, to: Ptr) -> None:
        """One token's block."""
        for i in range(0, size, 64):
            store_upto(to + i, load_upto(x + i, s.idiv(size - i, 4)), s.idiv(size - i, 4))

    def run(
        step: Ptr, tid: Int, nt: Int,
        lists: Ptr, tokens: Ptr, x: Ptr, blocks: Int, out: Ptr,
    ) -> None:  # fmt: skip
        """Prepared activations from token order to slot order, for experts with several slots."""
        for m in range(s.get_i64(lists)):
            entry = lists + ENTRIES + ENTRY_BYTES * m
            slot, n = s.get_i64(entry + 8), s.get_i64(entry + 16)
            if n > 1:
                for i in range(slot + share(tid, nt, n), slot + share(tid + 1, nt, n)):
                    t = s.get_i32(tokens + 4 * i)
                    from_ = x + size * (s.idiv(t, 8) * blocks * 8 + s.imod(t, 8))
                    to = out + size * (s.idiv(i, 8) * blocks * 8 + s.imod(i, 8))
                    for b in range(blocks):
                        copy(from_ + 8 * size * b, to + 8 * size * b)

    return run


def _gate(kind: int, form: str) -> Callable[..., None]:
    size, taken, room = BYTES[form], at_once(form), s.memory(4 * UNIT)
    block: Any = unit(form) if taken > 1 else {"i8": i8_block, "exact": exact_block}[form]

    @device
    def half(x: Ptr, width: Int, left: Int, gated: Int, limit: Float) -> Vector:
        """16 columns of act(gate) * up, or of act(up) if there is no gate."""
        v = s.load_first(x, left)
        if gated == 0:
            return vmath.activate(v, kind)
        up = s.load_first(x + 4 * width, left)
        if limit > f32(0.0):
            most = s.fill(limit)
            least = s.sub(s.zeros(), most)
            v = s.minimum(most, v)  # of a nan and a limit these give the nan
            up = s.add(s.minimum(most, s.maximum(least, up)), s.fill(f32(1.0)))
            up = s.where_less_i32(s.lanes(), s.fill_i32(left), up, s.zeros())
        return s.mul(vmath.activate(v, kind), up)

    def run(
        step: Ptr, tid: Int, nt: Int,
        lists: Ptr, x: Ptr, stride: Int, width: Int, gated: Int, limit: Float, out: Ptr,
    ) -> None:  # fmt: skip
        """x [slots, width or 2 width] -> prepared activations [slots, width]."""
        blocks, whole = s.idiv(width + 31, 32), room()
        for m in range(s.get_i64(lists)):
            entry = lists + ENTRIES + ENTRY_BYTES * m
            slot, n = s.get_i64(entry + 8), s.get_i64(entry + 16) * s.idiv(blocks, taken)
            first, last = share(tid, nt, n) * taken, share(tid + 1, nt, n) * taken
            for item in range(first, last, taken):
                i, b = slot + s.idiv(item, blocks), s.imod(item, blocks)
                p, left = x + 4 * (i * stride + 32 * b), width - 32 * b
                place = (s.idiv(i, 8) * blocks + b) * 8 + s.imod(i, 8)
                if taken > 1:
                    for k in range(0, UNIT, 16):
                        s.store_f32(whole + 4 * k, half(p + 4 * k, width, left - k, gated, limit))
                    block(whole, out + size * place)
                else:
                    low = half(p, width, left, gated, limit)
                    high = half(p + 64, width, left - 16, gated, limit)
                    block(low, high, out + size * place)

    return run


def _sum(
    step: Ptr, tid: Int, nt: Int,
    x: Ptr, x_stride: Int, places: Ptr, top: Int, weights: Ptr, weights_stride: Int, y: Ptr,
    y_stride: Int, width: Int,
) -> None:  # fmt: skip
    """y[t] = sum over j, ascending, of weights[t, j] * x[places[t, j]]; weights 0: all one."""
    n = s.get_i64(step + header.N)
    for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
        for i in range(0, width, 16):
            total = s.zeros()
            for j in range(top):
                slot = s.get_i32(places + 4 * (t * top + j))
                v = load_upto(x + 4 * (slot * x_stride + i), width - i)
                if weights != 0:
                    w = s.get_f32(weights + 4 * (t * weights_stride + j))
                    total = s.fma(v, s.fill(w), total)
                else:
                    total = s.add(total, v)
            store_upto(y + 4 * (t * y_stride + i), total, width - i)


_PARTS: dict[str, Callable[..., None]] = {"group": _group, "sum": _sum}


def build(variant: str) -> Kernel:
    """`expert_slots.group`, `.gather-<form>`, `.gate-<activation>-<form>` or `.sum`."""
    what, _, rest = variant.partition("-")
    if what == "gather":
        run = _gather(BYTES[rest])
    elif what == "gate":
        kind, _, form = rest.partition("-")
        run = _gate(ACTS.index(kind), form)
    else:
        run = _PARTS[what]
    return kernel(f"expert_slots.{variant}")(run)
