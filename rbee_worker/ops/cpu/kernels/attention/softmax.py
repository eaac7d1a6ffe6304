"""Attention of one query: the weights of a span, folding spans together, the result.

The recurrence is the online softmax (Milakov & Gimelshein 2018): a span's maximum m, sum of weights
l and weighted sum of values are folded into the running ones in ascending order of spans. Each span
is computed by itself and folded in the same way, at once or from a partial result, so both give the
same bits.
"""

from __future__ import annotations

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels import vmath
from rbee_worker.ops.cpu.kernels.shares import store_upto

f32 = np.float32
NONE = f32(-np.inf)  # the maximum over no keys

TOP, SUM, SPAN_TOP, SPAN_SUM, FIRST, LAST = 0, 4, 8, 12, 16, 24  # offsets in a query's statistics


@device
def exp1(x: Float) -> Float:
    """e^x of one number, at most 0."""
    return s.lane0(vmath.exp_weight(s.fill(x)))


@device
def weigh(
    scores: Ptr, first: Int, last: Int, cap: Float, slope: Float, distances: Ptr, reach: Int,
    behind: Int,
    k_scales: Ptr, v_scales: Ptr, scale_at: Int, v_scale_at: Int, stats: Ptr,
) -> None:  # fmt: skip
    """Replace the scores of keys first .. last - 1 of a span by e^(score - maximum), others by 0.

    cap: the soft cap, or 0. slope: of a bias that is linear in the distance (ALiBi); `behind` is
    the query's position minus that of the span's first key. distances: 0, or the address of a
    number for each distance from -reach to reach, which is added (`Ops.attend`). k_scales,
    v_scales: 0, or the addresses of 16 groups, whose scales are `scale_at` and `v_scale_at` bytes
    further on. Sets the span's maximum and sum.
    """
    low, high = s.idiv(first, 16), s.idiv(last + 15, 16)
    top = s.fill(NONE)
    begin, end = s.fill_i32(first), s.fill_i32(last)
    adjusted = k_scales != 0 or cap != f32(0.0) or slope != f32(0.0) or distances != 0
    for g in range(low, high):
        v = s.load_f32(scores + 64 * g)
        if not adjusted and 16 * g >= first and 16 * g + 16 <= last:
            top = s.maximum(v, top)
            continue
        if k_scales != 0:
            v = s.mul(v, s.load_f32(s.get_i64(k_scales + 8 * g) + scale_at))
        if cap != f32(0.0):
            v = s.mul(vmath.tanh(s.div(v, s.fill(cap))), s.fill(cap))
        key = s.iadd(s.lanes(), s.fill_i32(16 * g))
        if slope != f32(0.0):
            v = s.fma(s.to_f32(s.isub(key, s.fill_i32(behind))), s.fill(slope), v)
        if distances != 0:  # beyond its reach a row has 16 equal numbers at either end
            away = s.larger(s.smaller(16 * g - behind, reach - 15), -reach)
            v = s.add(v, s.load_f32(distances + 4 * (away + reach)))
        v = s.where_less_i32(key, begin, s.fill(NONE), v)
        v = s.where_less_i32(key, end, v, s.fill(NONE))
        s.store_f32(scores + 64 * g, v)
        top = s.maximum(v, top)
    most = s.largest(top)
    shift, sums = s.fill(most), s.zeros()
    for g in range(low, high):
        w = vmath.exp_weight(s.sub(s.load_f32(scores + 64 * g), shift))
        sums = s.add(sums, w)
        if v_scales != 0:
            scale = s.load_f32(s.get_i64(v_scales + 8 * g) + v_scale_at)
            w = s.where_less(s.zeros(), w, s.mul(w, scale), w)
        s.store_f32(scores + 64 * g, w)
    s.set_f32(stats + SPAN_TOP, most)
    s.set_f32(stats + SPAN_SUM, s.total(sums))


@device
def fold(stats: Ptr, acc: Ptr, top: Float, total: Float, part: Ptr, width: Int) -> None:
    """Fold a span's maximum, sum and weighted values [width] into the running ones."""
    before = s.get_f32(stats + TOP)
    most = top if top > before else before
    keep, gain = exp1(before - most), exp1(top - most)
    s.set_f32(stats + TOP, most)
    s.set_f32(stats + SUM, s.fma_f32(total, gain, s.get_f32(stats + SUM) * keep))
    a, b = s.fill(keep), s.fill(gain)
    for i in range(0, width, 16):
        old = s.mul(s.load_f32(acc + 4 * i), a)
        s.store_f32(acc + 4 * i, s.fma(s.load_f32(part + 4 * i), b, old))


@device
def start(stats: Ptr, acc: Ptr, width: Int) -> None:
    """The state before any key: nothing seen."""
    s.set_f32(stats + TOP, NONE)
    s.set_f32(stats + SUM, f32(0.0))
    for i in range(0, width, 16):
        s.store_f32(acc + 4 * i, s.zeros())


@device
def finish(stats: Ptr, acc: Ptr, sink: Float, y: Ptr, width: Int, exact: Int) -> None:
    """y [width] = weighted values / sum of weights.

    sink: one more score, whose value is 0, or -inf for none. exact: vector i holds columns 16 i and
    following even if the last vector is not full; otherwise see `span._weighted`.
    """
    total = s.get_f32(stats + SUM)
    a = s.fill(f32(1.0))
    if sink != NONE:
        top = s.get_f32(stats + TOP)
        most = top if top > sink else sink
        keep = exp1(top - most)
        total = s.fma_f32(total, keep, exp1(sink - most))
        a = s.fill(keep)
    b = s.fill(total)
    for i in range(0, width, 16):
        v = s.div(s.mul(s.load_f32(acc + 4 * i), a), b)
        if width < 16 or exact != 0:
            store_upto(y + 4 * i, v, width - i)
        else:  # the last vector holds the last 16 columns
            s.store_f32(y + 4 * s.smaller(i, width - 16), v)
