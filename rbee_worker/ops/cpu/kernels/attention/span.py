"""One span of up to 256 paged keys for a tile of queries: scores, weights, and their values' sums.

Queries go through the inner loops of `micro.py` four at a time; `softmax.py` has the recurrence
that joins the spans of a query. The result of a span is its weighted sum of values and, in the
query's statistics, the maximum and the sum of its weights.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import device, noinline
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels.attention import micro, softmax
from rbee_worker.ops.cpu.shared.paged import KEYS, POINTERS, SCORES, SPAN, STATS

f32 = np.float32


@device
def lowest(position: Int, window: Int) -> Int:
    """The first key that a query at `position` sees. A negative window is a chunked mask: minus the
    length of a chunk."""
    if window < 0:
        return position - s.imod(position, -window)
    return s.larger(position - window + 1, 0) if window > 0 else 0


@device
def beyond(position: Int, window: Int, length: Int, causal: Int) -> Int:
    """The position after the last of `length` keys that a query at `position` sees."""
    if causal != 0:
        return position + 1
    return s.smaller(length, position + window) if window > 0 else length


@device
def find(
    table: Ptr, begin: Int, low: Int, high: Int, head: Int, heads: Int, block: Int,
    base: Ptr, bytes_each: Int, out: Ptr,
) -> None:  # fmt: skip
    """Write the addresses of the groups with keys low .. high - 1 of the span at `begin`. The other
    groups of the span get the address of the first one."""
    per_block = s.idiv(block, KEYS)
    first, last = s.idiv(low, KEYS), s.idiv(high + KEYS - 1, KEYS)
    group = s.idiv(begin, KEYS) + first
    entry = table + 4 * s.idiv(group, per_block)
    within, other = s.imod(group, per_block), 0
    for n in range(first, s.larger(last, first + 1)):
        place = (s.get_i32(entry) * heads + head) * per_block + within
        s.set_i64(out + 8 * n, base + place * bytes_each)
        if n == first:
            other = base + place * bytes_each
        within += 1
        if within == per_block:
            within = 0
            entry += 4
    for n in range(first):
        s.set_i64(out + 8 * n, other)
    for n in range(s.larger(last, first + 1), POINTERS):
        s.set_i64(out + 8 * n, other)


def span_of(kind: str, latent: bool, narrow: int) -> Callable[..., Any]:
    """The device function `span` for a cache's dtype.

    latent: values are the first columns of the keys. narrow: the number of a value's columns if it
    is below 16, else 0.
    """
    score, size = _dispatch(kind), micro.BYTES[kind]
    spread = _latent(kind) if latent else _weighted(kind, narrow)
    extra = 4 if size == 1 else 0

    @device
    def span(
        count: Int, chunk: Int, position: Int, begin: Int, window: Int, length: Int, causal: Int,
        q: Ptr, k_dim: Int, width: Int, scores: Ptr, part: Ptr, stats: Ptr, keys: Ptr, values: Ptr,
        cap: Float, slopes: Ptr, distances: Ptr, reach: Int, until: Ptr,
    ) -> None:  # fmt: skip
        """One span for `count` queries: `chunk` heads of each token from `position` on. until: the
        last key that each token sees, 0: as `beyond` says."""
        vp = (width + 15) & ~15
        for j in range(count):
            of, at = stats + STATS * j, position + s.idiv(j, chunk)
            first = s.larger(lowest(at, window) - begin, 0)
            end = beyond(at, window, length, causal)
            if until != 0:
                end = s.get_i64(until + 8 * s.idiv(j, chunk)) + 1
            last = s.larger(s.smaller(end - begin, SPAN), first)
            s.set_i64(of + softmax.FIRST, first)
            s.set_i64(of + softmax.LAST, last)
            for i in range(0, vp, 16):
                s.store_f32(part + 4 * (j * vp + i), s.zeros())
        for j in range(0, count, 4):
            n = s.smaller(count - j, 4)
            # positions ascend with j, and so do the last keys that are seen
            low = s.idiv(s.get_i64(stats + STATS * j + softmax.FIRST), KEYS)
            high = s.get_i64(stats + STATS * (j + n - 1) + softmax.LAST)
            p = scores + SCORES * j
            for g in range(low, s.idiv(high + KEYS - 1, KEYS), micro.WIDE):
                score(n, q + 4 * k_dim * j, 4 * k_dim, keys + 8 * g, k_dim, p + 64 * g)
            for i in range(j, j + n):
                of = stats + STATS * i
                first, last = s.get_i64(of + softmax.FIRST), s.get_i64(of + softmax.LAST)
                if first < last:
                    slope, added = f32(0.0), 0
                    if slopes != 0:
                        slope = s.get_f32(slopes + 4 * s.imod(i, chunk))
                    if distances != 0:
                        added = distances + 4 * (2 * reach + 1) * s.imod(i, chunk)
                    softmax.weigh(
                        scores + SCORES * i, first, last, cap, slope, added, reach,
                        position + s.idiv(i, chunk) - begin,
                        keys if extra > 0 else 0, (keys if latent else values) if extra > 0 else 0,
                        KEYS * k_dim * size, KEYS * (k_dim if latent else width) * size, of,
                    )  # fmt: skip
            spread(n, p, keys if latent else values, stats + STATS * j, part + 4 * vp * j, width)

    return span


def _dispatch(kind: str) -> Callable[..., Any]:
    one, two, three, four = (micro.scores(kind, n) for n in (1, 2, 3, 4))

    @device
    def scores(n: Int, q: Ptr, q_stride: Int, keys: Ptr, dim: Int, out: Ptr) -> None:
        if n == 4:
            four(q, q_stride, keys, dim, out, SCORES)
        elif n == 3:
            three(q, q_stride, keys, dim, out, SCORES)
        elif n == 2:
            two(q, q_stride, keys, dim, out, SCORES)
        else:
            one(q, q_stride, keys, dim, out, SCORES)

    return scores


def _weighted(kind: str, narrow: int) -> Callable[..., Any]:
    """A device function (n, p, groups, stats, acc, width): add weights times values for n queries.

    Vector i of a query's sums holds columns 16 i and following, except that the last vector holds
    the last 16 columns, so that nothing beyond a value is read. narrow: see `span_of`.
    """
    size = micro.BYTES[kind]
    wide = [micro.values(kind, n, micro.WIDE, 0) for n in (1, 2, 3, 4)]
    pairs = [micro.values(kind, n, 2, 0) for n in (1, 2, 3, 4)]
    single = [micro.values(kind, n, 1, narrow) for n in (1, 2, 3, 4)]
    step = 16 * micro.WIDE

    def columns(block: Any, two: Any, one: Any) -> Any:
        @noinline
        def run(p: Ptr, groups: Ptr, begin: Int, end: Int, acc: Ptr, width: Int) -> None:
            row, stride, c = width * size, 4 * ((width + 15) & ~15), 0
            while c + step <= width:
                block(p, SCORES, groups, begin, end, row, c * size, acc + 4 * c, stride)
                c += step
            if c + 32 <= width:
                two(p, SCORES, groups, begin, end, row, c * size, acc + 4 * c, stride)
                c += 32
            while c < width:
                at = s.larger(s.smaller(c, width - 16), 0)
                one(p, SCORES, groups, begin, end, row, at * size, acc + 4 * c, stride)
                c += 16

        return run

    one, two, three, four = (columns(*ways) for ways in zip(wide, pairs, single, strict=True))

    @device
    def batch(n: Int, p: Ptr, groups: Ptr, stats: Ptr, acc: Ptr, width: Int) -> None:
        """Keys that all queries see are added together, others query by query; in key order."""
        begin, end, stride = 0, SPAN, 4 * ((width + 15) & ~15)
        for j in range(n):
            begin = s.larger(begin, s.get_i64(stats + STATS * j + softmax.FIRST))
            end = s.smaller(end, s.get_i64(stats + STATS * j + softmax.LAST))
        end = s.larger(begin, end)
        for part in range(2):
            for j in range(n):
                of = stats + STATS * j
                low, high = s.get_i64(of + softmax.FIRST), s.get_i64(of + softmax.LAST)
                if part == 0:
                    high = s.smaller(begin, high)
                else:
                    low = end
                if low < high:
                    one(p + SCORES * j, groups, low, high, acc + stride * j, width)
            if part == 0 and begin < end:
                if n == 4:
                    four(p, groups, begin, end, acc, width)
                elif n == 3:
                    three(p, groups, begin, end, acc, width)
                elif n == 2:
                    two(p, groups, begin, end, acc, width)
                else:
                    one(p, groups, begin, end, acc, width)

    return batch


def _latent(kind: str) -> Callable[..., Any]:
    """`_weighted` for values that are the first columns of the keys."""
    product = micro.latent_values(kind)

    @device
    def batch(n: Int, p: Ptr, groups: Ptr, stats: Ptr, acc: Ptr, width: Int) -> None:
        for j in range(n):
            low = s.idiv(s.get_i64(stats + STATS * j + softmax.FIRST), KEYS)
            high = s.idiv(s.get_i64(stats + STATS * j + softmax.LAST) + KEYS - 1, KEYS)
            product(p + SCORES * j, groups, low, high, width, acc + 4 * ((width + 15) & ~15) * j)

    return batch
