"""From rows of logits to tokens: the maximum and the sum of each block, then each row's choice.

Threads share the blocks of all rows, then rows. `reference/sampling/filters.py` defines the result.
Sums are float64, in an order that depends on the row alone: within a block in 16 lanes over
ascending columns, joined by the fixed tree; over blocks, and over a list's tokens, from left to
right.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel, noinline
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels.sampling import candidates as c
from rbee_worker.ops.cpu.kernels.sampling import doubles as d
from rbee_worker.ops.cpu.kernels.sampling.doubles import Double
from rbee_worker.ops.cpu.kernels.shares import load_upto, share
from rbee_worker.ops.cpu.shared import sampling_memory as r
from rbee_worker.ops.cpu.shared.sampling_memory import BLOCK

f32 = np.float32
f64 = np.float64
NONE = f32(-np.inf)
REACH = 64  # a nucleus is searched for among this many tokens,
MORE = 1024  # then among so many, then by `_many` among all that can be in it


def _scan(
    step: Ptr, tid: Int, nt: Int, vocab: Int, blocks: Int, width: Int, tops: Ptr, groups: Ptr
) -> None:
    """The maximum of each block, nan if it has one: tops [rows, width]; and, ignoring nans, the
    maximum of each of its 16 groups of every 16th column: groups [rows, blocks, 16]."""
    rows, table = s.get_i64(step + r.ROWS), s.get_i64(step + r.RECORDS)
    n = rows * blocks
    for item in range(share(tid, nt, n), share(tid + 1, nt, n)):
        row, block = s.idiv(item, blocks), s.imod(item, blocks)
        first = block * BLOCK
        z, left = s.get_i64(table + r.RECORD * row + r.LOGITS), vocab - first
        z += 4 * first
        end = s.smaller(left, BLOCK)
        top, top2, bad = s.fill(NONE), s.fill(NONE), s.zeros()
        for i in range(0, end - 31, 32):
            u, v = s.load_f32(z + 4 * i), s.load_f32(z + 4 * i + 64)
            top, top2 = s.maximum(u, top), s.maximum(v, top2)
            bad = s.where_nan(u, u, s.where_nan(v, v, bad))
        for i in range(end & -32, end, 16):
            v = load_upto(z + 4 * i, left - i)
            v = s.where_less_i32(s.lanes(), s.fill_i32(left - i), v, s.fill(NONE))
            top, bad = s.maximum(v, top), s.where_nan(v, v, bad)
        top = s.maximum(top2, top)
        s.store_f32(groups + 64 * item, top)
        most, wrong = s.largest(top), s.total(bad)
        s.set_f32(tops + 4 * (row * width + block), wrong if wrong != wrong else most)


@device
def _block(
    z: Ptr, left: Int, top: Double, scale: Double, least: Double, to: Ptr
) -> Double:  # fmt: skip
    """The sum of a block's weights that are >= least. to: where to write the weights, or 0."""
    sums = d.fill(f64(0.0))
    peak, by, low = d.fill(top), d.fill(scale), d.fill(least)
    for i in range(0, s.smaller(left, BLOCK), 16):
        w = d.weigh(load_upto(z + 4 * i, left - i), peak, by)
        if least > f64(0.0):
            w = d.where_less(w, low, d.fill(f64(0.0)), w)
        if left - i < 16:
            w = d.first_lanes(w, left - i)
        if to != 0:
            d.store(to + 8 * i, w)
        sums = d.add(sums, w)
    return d.total(sums)


@device
def _sorts(record: Ptr) -> Int:
    """1 if the row has top_k or top_p."""
    if s.get_i64(record + r.TOP_K) > 0 or d.get_f64(record + r.TOP_P) < f64(1.0):
        return 1
    return 0


@device
def _least(record: Ptr) -> Double:
    """The weight that a token needs to be summed: min_p, or 0 if top_p needs the sum of all."""
    if s.get_i64(record + r.KIND) == r.DRAW and _sorts(record) == 0:
        return d.get_f64(record + r.MIN_P)
    return f64(0.0)


def _sums(
    step: Ptr, tid: Int, nt: Int, vocab: Int, blocks: Int, width: Int, tops: Ptr, sums: Ptr
) -> None:
    """Sum the weights of each block, for rows that need it: sums float64 [rows, blocks]."""
    rows, table = s.get_i64(step + r.ROWS), s.get_i64(step + r.RECORDS)
    n = rows * blocks
    before, top = -1, f64(0.0)
    for item in range(share(tid, nt, n), share(tid + 1, nt, n)):
        row, block = s.idiv(item, blocks), s.imod(item, blocks)
        record = table + r.RECORD * row
        kind = s.get_i64(record + r.KIND)
        needs = kind == r.SCORE or (kind == r.DRAW and s.get_i64(record + r.TOP_K) == 0)
        if needs:
            if row != before:
                before, top = row, f64(c.peak(tops + 4 * row * width, width))
            z = s.get_i64(record + r.LOGITS) + 4 * block * BLOCK
            scale, least = d.get_f64(record + r.SCALE), _least(record)
            mass = _block(z, vocab - block * BLOCK, top, scale, least, 0)
            d.set_f64(sums + 8 * item, mass)


@noinline
def _whole(record: Ptr, vocab: Int, blocks: Int, top: Double, sums: Ptr, w: Ptr) -> Int:
    """The token of a row without top_k and top_p: its block by running sums, then the token."""
    target = d.get_f64(record + r.U) * c.running(sums, blocks)
    block = c.walk(sums, blocks, f64(0.0), target)
    first = block * BLOCK
    z, left = s.get_i64(record + r.LOGITS) + 4 * first, vocab - first
    _block(z, left, top, d.get_f64(record + r.SCALE), _least(record), w)
    # A block's sum and its running sum may differ in the last bit; then its last token is taken.
    return first + c.walk(w, s.smaller(left, BLOCK), c.running(sums, block), target)


@device
def _reach(z: Ptr, vocab: Int, blocks: Int, groups: Ptr, top: Float, want: Int) -> Float:
    """A threshold as of `candidates.threshold`, found among groups' maxima if there are enough.

    The maximum of a group is one of its tokens, so `want` groups contain at least `want` tokens. If
    there are hardly enough groups, the row itself is searched.
    """
    if 8 * want <= 7 * 16 * blocks:
        return c.threshold(groups, 16 * blocks, top, want)
    return c.threshold(z, vocab, top, want)


@device
def _target(record: Ptr, w: Ptr, order: Ptr, upto: Int, total: Double) -> Double:
    """The sum of weights that top_p asks for; infinite if top_p is off."""
    top_p = d.get_f64(record + r.TOP_P)
    if top_p >= f64(1.0):
        return f64(np.inf)
    if s.get_i64(record + r.TOP_K) > 0:
        total = f64(0.0)
        for i in range(upto):
            total = total + d.get_f64(w + 8 * s.get_i32(order + 4 * i))
    return top_p * total


@device
def _kept(record: Ptr, w: Ptr, order: Ptr, upto: Int, target: Double) -> Int:
    """How many of the likeliest `upto` tokens top_p and min_p keep; -1 - upto if they keep all of
    them and perhaps more."""
    min_p, sums = d.get_f64(record + r.MIN_P), f64(0.0)
    for i in range(upto):
        x = d.get_f64(w + 8 * s.get_i32(order + 4 * i))
        if x < min_p:
            return i
        sums = sums + x
        if sums >= target:
            return i + 1
    return -1 - upto


@noinline
def _many(
    record: Ptr, vocab: Int, tops: Ptr, top: Float, total: Double, w: Ptr, width: Int
) -> Int:  # fmt: skip
    """The token of a row with top_p whose nucleus is large: all that can be in it is listed."""
    z, top_p = s.get_i64(record + r.LOGITS), d.get_f64(record + r.TOP_P)
    peak, scale, min_p = f64(top), d.get_f64(record + r.SCALE), d.get_f64(record + r.MIN_P)
    values = w + 8 * width
    ids = values + 4 * width
    # All tokens that weigh less than this have less than 1 - top_p together: they are not needed.
    rest = (f64(1.0) - top_p) * total / f64(vocab)
    least = c.lightest(peak, scale, rest * f64(1.0 - 1e-9))
    m = c.gather(z, vocab, tops, least, values, ids)
    c.weights(values, m, peak, scale, w)
    c.fewest(values, m, w, width, least, top, top_p * total)
    if min_p > f64(0.0):
        for i in range(m):
            if d.get_f64(w + 8 * i) < min_p:
                d.set_f64(w + 8 * i, f64(0.0))
    target = d.get_f64(record + r.U) * c.running(w, m)
    return s.get_i32(ids + 4 * c.walk(w, m, f64(0.0), target))


@noinline
def _sorted(
    record: Ptr, vocab: Int, blocks: Int, tops: Ptr, groups: Ptr, top: Float, total: Double,
    w: Ptr, width: Int,
) -> Int:  # fmt: skip
    """The token of a row with top_k or top_p, from as few of its largest logits as suffice."""
    z, top_k = s.get_i64(record + r.LOGITS), s.get_i64(record + r.TOP_K)
    peak, scale = f64(top), d.get_f64(record + r.SCALE)
    values = w + 8 * width
    ids, keys = values + 4 * width, values + 8 * width
    order, keys2, order2 = keys + 4 * width, keys + 8 * width, keys + 12 * width
    counts = values + 32 * width
    want = top_k if top_k > 0 else REACH
    least, m, kept = f32(0.0), 0, -1
    found = order
    while kept < 0:
        if want > MORE and top_k == 0:
            return _many(record, vocab, tops, top, total, w, width)
        least = _reach(z, vocab, blocks, groups, top, want)
        m = c.gather(z, vocab, tops, least, values, ids)
        c.weights(values, m, peak, scale, w)
        found = c.descending(values, m, keys, order, keys2, order2, counts)
        upto = s.smaller(m, top_k) if top_k > 0 else m
        kept = _kept(record, w, found, upto, _target(record, w, found, upto, total))
        if kept < 0 and (top_k > 0 or least == c.LOWEST):
            kept = -1 - kept
        want *= 16
    for i in range(kept, m):
        d.set_f64(w + 8 * s.get_i32(found + 4 * i), f64(0.0))
    target = d.get_f64(record + r.U) * c.running(w, m)
    return s.get_i32(ids + 4 * c.walk(w, m, f64(0.0), target))


@device
def _put(best: Ptr, place: Int, token: Int, z: Ptr) -> None:
    s.set_i32(best + 8 * place, token)
    s.copy_i32(best + 8 * place + 4, z + 4 * token)


@noinline
def _best(
    record: Ptr, vocab: Int, blocks: Int, tops: Ptr, groups: Ptr, top: Float, w: Ptr, width: Int
) -> None:
    """The likeliest tokens of a scored row, ties by lower id; any tokens if the row has a nan."""
    z, want = s.get_i64(record + r.LOGITS), s.get_i64(record + r.TOP_K)
    best, values = s.get_i64(record + r.BEST), w + 8 * width
    ids, keys = values + 4 * width, values + 8 * width
    order, keys2, order2 = keys + 4 * width, keys + 8 * width, keys + 12 * width
    n = 0
    if want > 0 and top > NONE:
        least = _reach(z, vocab, blocks, groups, top, want)
        m = c.gather(z, vocab, tops, least, values, ids)
        found = c.descending(values, m, keys, order, keys2, order2, values + 32 * width)
        n = s.smaller(m, want)
        for i in range(n):
            _put(best, i, s.get_i32(ids + 4 * s.get_i32(found + 4 * i)), z)
    for token in range(vocab):  # tokens at -inf come last
        if n < want and not (s.get_f32(z + 4 * token) > NONE and top > NONE):
            _put(best, n, token, z)
            n += 1
        if n >= want:
            return


def _choose(
    step: Ptr, tid: Int, nt: Int, vocab: Int, blocks: Int, width: Int, tops: Ptr, groups: Ptr,
    sums: Ptr, scratch: Ptr, scratch_bytes: Int, places: Int,
) -> None:  # fmt: skip
    """Each row's token, or what its score needs. places: the width of a thread's scratch arrays."""
    rows, table = s.get_i64(step + r.ROWS), s.get_i64(step + r.RECORDS)
    w = scratch + tid * scratch_bytes
    for row in range(share(tid, nt, rows), share(tid + 1, nt, rows)):
        record = table + r.RECORD * row
        kind = s.get_i64(record + r.KIND)
        of_row, of_groups = tops + 4 * row * width, groups + 64 * row * blocks
        of_sums = sums + 8 * row * blocks
        top, token = c.peak(of_row, width), -1
        peak, total = f64(np.nan), f64(np.nan)
        z = s.get_i64(record + r.LOGITS)
        if top > NONE:  # False for nan
            peak = f64(top)
            if kind == r.GREEDY:
                token = c.first_equal(z, vocab, of_row, top)
            else:
                if kind == r.SCORE or s.get_i64(record + r.TOP_K) == 0:
                    total = c.running(of_sums, blocks)
                if kind == r.DRAW and _sorts(record) == 0:
                    token = _whole(record, vocab, blocks, peak, of_sums, w)
                elif kind == r.DRAW:
                    token = _sorted(
                        record, vocab, blocks, of_row, of_groups, top, total, w, places
                    )  # fmt: skip
        if kind == r.SCORE:
            _best(record, vocab, blocks, of_row, of_groups, top, w, places)
        s.set_i64(record + r.ID, token)
        d.set_f64(record + r.PEAK, peak)
        d.set_f64(record + r.TOTAL, total)


_KINDS: dict[str, Callable[..., None]] = {"scan": _scan, "sums": _sums, "choose": _choose}


def build(variant: str) -> Kernel:
    """`sample.scan`, `sample.sums` or `sample.choose`, which are replayed in this order."""
    return kernel(f"sample.{variant}")(_KINDS[variant])
