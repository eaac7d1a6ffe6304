"""Which experts a row takes, and their weights; `Ops.route` defines both.

Threads share rows. Sums along a row run in 16 lanes over ascending columns, joined by the fixed
tree; chosen weights are summed in ascending ids.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels import vmath
from rbee_worker.ops.cpu.kernels.shares import load_upto, share, store_upto
from rbee_worker.ops.cpu.shared import step as header

f32 = np.float32
NONE = f32(-np.inf)


@device
def _best(x: Ptr, taken: Ptr, first: Int, last: Int) -> Int:
    """The first of the largest of x[first .. last - 1] that are not taken. At least one must be."""
    best, most = first - 1, f32(0.0)
    for e in range(first, last):
        if s.get_i32(taken + 4 * e) == 0:
            v = s.get_f32(x + 4 * e)
            if best < first or v > most:
                best, most = e, v
    return best


@device
def _softmax(x: Ptr, count: Int, to: Ptr) -> None:
    """e^(x - max x) / sum."""
    top = s.fill(NONE)
    for i in range(0, count, 16):
        v = load_upto(x + 4 * i, count - i)
        top = s.maximum(s.where_less_i32(s.lanes(), s.fill_i32(count - i), v, s.fill(NONE)), top)
    shift, sums = s.fill(s.largest(top)), s.zeros()
    for i in range(0, count, 16):
        v = vmath.exp(s.sub(load_upto(x + 4 * i, count - i), shift))
        v = s.where_less_i32(s.lanes(), s.fill_i32(count - i), v, s.zeros())
        sums = s.add(sums, v)
        store_upto(to + 4 * i, v, count - i)
    total = s.fill(s.total(sums))
    for i in range(0, count, 16):
        store_upto(to + 4 * i, s.div(load_upto(to + 4 * i, count - i), total), count - i)


@device
def _sigmoid(x: Ptr, count: Int, to: Ptr) -> None:
    for i in range(0, count, 16):
        store_upto(to + 4 * i, vmath.sigmoid(load_upto(x + 4 * i, count - i)), count - i)


@device
def _clear(taken: Ptr, count: Int, value: Int) -> None:
    for e in range(count):
        s.set_i32(taken + 4 * e, value)


@device
def _worth(x: Ptr, taken: Ptr, first: Int, last: Int, two: Int) -> Float:
    """A group's best score, or the sum of its best two."""
    best = _best(x, taken, first, last)
    worth = s.get_f32(x + 4 * best)
    if two != 0:
        s.set_i32(taken + 4 * best, 1)
        worth = s.get_f32(x + 4 * _best(x, taken, first, last)) + worth
        s.set_i32(taken + 4 * best, 0)
    return worth


@device
def _close_groups(
    x: Ptr, taken: Ptr, of_groups: Ptr, count: Int, groups: Int, keep: Int, two: Int
) -> None:
    """Mark experts outside the `keep` best groups as taken. of_groups: scratch, 8 bytes a group."""
    size, closed = s.idiv(count, groups), of_groups + 4 * groups
    for g in range(groups):
        s.set_f32(of_groups + 4 * g, _worth(x, taken, g * size, (g + 1) * size, two))
        s.set_i32(closed + 4 * g, 0)
    for _ in range(keep):
        s.set_i32(closed + 4 * _best(of_groups, closed, 0, groups), 1)
    for g in range(groups):
        if s.get_i32(closed + 4 * g) == 0:
            for e in range(g * size, (g + 1) * size):
                s.set_i32(taken + 4 * e, 1)


@device
def _sparse(logits: Ptr, taken: Ptr, count: Int, jitter: Float, scores: Ptr) -> None:
    """Scores of the best two: 1 over the sum of e^(logit - best), of the experts that are near the
    best one and not yet taken."""
    for _ in range(2):
        best = _best(logits, taken, 0, count)
        top, total = s.get_f32(logits + 4 * best), f32(0.0)
        for e in range(count):
            v = s.get_f32(logits + 4 * e)
            size = v if v > f32(0.0) else -v
            size = size if size > top else top
            far = (top - v) / size > f32(2.0) * jitter
            if s.get_i32(taken + 4 * e) == 0 and not far:
                total += s.lane0(vmath.exp(s.fill(v - top)))
        s.set_f32(scores + 4 * best, f32(1.0) / total)
        s.set_i32(taken + 4 * best, 1)
    _clear(taken, count, 0)


def _kernel(score: Callable[..., Any] | None) -> Callable[..., None]:
    sparse = score is None
    spread = _sigmoid if score is None else score

    def run(
        step: Ptr, tid: Int, nt: Int,
        x: Ptr, x_stride: Int, ids: Ptr, ids_stride: Int, y: Ptr, y_stride: Int, bias: Ptr,
        scales: Ptr, count: Int, top: Int, groups: Int, keep: Int, two: Int, normalise: Int,
        scale: Float, jitter: Float, floor: Float, scratch: Ptr, scratch_bytes: Int,
    ) -> None:  # fmt: skip
        n = s.get_i64(step + header.N)
        scores = scratch + tid * scratch_bytes
        choice = scores + 4 * count
        taken = choice + 4 * count
        of_groups = taken + 4 * count
        for t in range(share(tid, nt, n), share(tid + 1, nt, n)):
            logits = x + 4 * t * x_stride
            _clear(taken, count, 0)
            if sparse:
                _sparse(logits, taken, count, jitter, scores)
            else:
                spread(logits, count, scores)
            by = logits
            if groups > 1 or bias != 0:
                by = scores
            if bias != 0:
                by = choice
                for e in range(count):
                    s.set_f32(by + 4 * e, s.get_f32(scores + 4 * e) + s.get_f32(bias + 4 * e))
            if groups > 1:
                _close_groups(by, taken, of_groups, count, groups, keep, two)
            for _ in range(top):
                s.set_i32(taken + 4 * _best(by, taken, 0, count), 2)
            to, weights, place, total = ids + 4 * t * ids_stride, y + 4 * t * y_stride, 0, f32(0.0)
            for e in range(count):
                if s.get_i32(taken + 4 * e) == 2:
                    s.set_i32(to + 4 * place, e)
                    total += s.get_f32(scores + 4 * e)
                    place += 1
            for j in range(top):
                e = s.get_i32(to + 4 * j)
                w = s.get_f32(scores + 4 * e)
                if normalise != 0:
                    w = w / (total + floor)
                w = w * scale
                if scales != 0:
                    w = w * s.get_f32(scales + 4 * e)
                s.set_f32(weights + 4 * j, w)

    return run


def build(variant: str) -> Kernel:
    """`route.softmax`, `route.sigmoid` or `route.sparsemixer`: logits [N, count] -> ids int32 and
    weights float32 [N, top]. scratch: for each thread 12 bytes an expert and 8 bytes a group."""
    score = {"softmax": _softmax, "sigmoid": _sigmoid, "sparsemixer": None}[variant]
    return kernel(f"route.{variant}")(_kernel(score))
