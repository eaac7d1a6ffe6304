"""Attention over paged keys, causal or not, whose place `paged.py` describes.

`attend.plan` lists the step's items of work (`attend_items.py`): tiles of tokens by some query
heads of one KV head, either whole or span by span. `span.py` computes one span of keys for a tile,
`softmax.py` has the recurrence that joins spans. An item that is one span leaves a partial result,
and `attend.combine` folds these in span order; a whole tile folds its spans as it goes. Both do the
same arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels.attention import micro, softmax
from rbee_worker.ops.cpu.kernels.attention.span import beyond, find, lowest, span_of
from rbee_worker.ops.cpu.kernels.shares import load_upto, share
from rbee_worker.ops.cpu.shared import attend_items as work
from rbee_worker.ops.cpu.shared import step as header
from rbee_worker.ops.cpu.shared.paged import KEYS, POINTERS, SCORES, SPAN, STATS

f32 = np.float32


@device
def _tiles(step: Ptr, rows: Int) -> Int:
    """Tiles of at most `rows` tokens in all sequences."""
    starts, count = s.get_i64(step + header.SEQ_STARTS), 0
    for b in range(s.get_i64(step + header.B)):
        tokens = s.get_i64(starts + 8 * b + 8) - s.get_i64(starts + 8 * b)
        count += s.idiv(tokens + rows - 1, rows)
    return count


def _plan(
    step: Ptr, tid: Int, nt: Int,
    items: Ptr, heads: Int, kv_heads: Int, rows: Int, chunk: Int, threads: Int, window: Int,
    causal: Int, lens: Int,
) -> None:  # fmt: skip
    """Write the list of items, in ascending sequences, rows, heads and spans: one thread's work.

    lens: where the header has the address of the numbers of keys."""
    if tid > 0:
        return
    share_heads = s.idiv(heads, kv_heads)
    chunks = s.idiv(share_heads + chunk - 1, chunk)
    split = 1 if _tiles(step, rows) * kv_heads * chunks < 2 * threads else 0
    starts, own = s.get_i64(step + header.SEQ_STARTS), s.get_i64(step + header.KV_LENS)
    until = s.get_i64(step + header.UNTIL) if causal != 0 else 0
    keys = s.get_i64(step + lens)
    to, count = items + work.ITEMS, 0
    for b in range(s.get_i64(step + header.B)):
        start, end = s.get_i64(starts + 8 * b), s.get_i64(starts + 8 * b + 8)
        length = s.get_i64(keys + 8 * b)
        base = s.get_i64(own + 8 * b) - end  # position of a row = base + row
        for t in range(start, end, rows):
            stop = s.smaller(t + rows, end)
            first = s.idiv(lowest(base + t, window), SPAN)
            end_key = beyond(base + stop - 1, window, length, causal)
            if until != 0:
                end_key = s.get_i64(until + 8 * (stop - 1)) + 1
            last = s.idiv(end_key - 1, SPAN) + 1
            for unit in range(kv_heads * chunks):
                h, behind = s.idiv(unit, chunks), s.imod(unit, chunks) * chunk
                for n in range(first, last if split != 0 else first + 1):
                    s.set_i64(to + work.SEQUENCE, b)
                    s.set_i64(to + work.FIRST, t)
                    s.set_i64(to + work.LAST, stop)
                    s.set_i64(to + work.KV_HEAD, h)
                    s.set_i64(to + work.HEAD, h * share_heads + behind)
                    s.set_i64(to + work.HEADS, s.smaller(chunk, share_heads - behind))
                    s.set_i64(to + work.SPAN_NUMBER, n)
                    s.set_i64(to + work.SPANS, last - n)
                    to += work.ITEM_BYTES
                    count += 1
    s.set_i64(items + work.COUNT, count)
    s.set_i64(items + work.SPLIT, split)


@device
def _load_queries(
    q: Ptr, stride: Int, first: Int, head: Int, here: Int, count: Int, k_dim: Int, scale: Float,
    to: Ptr,
) -> None:  # fmt: skip
    """`count` queries times scale: `here` heads from `head` on of each row from `first` on."""
    for j in range(count):
        p = q + 4 * ((first + s.idiv(j, here)) * stride + (head + s.imod(j, here)) * k_dim)
        for i in range(0, k_dim, 16):
            v = s.mul(load_upto(p + 4 * i, k_dim - i), s.fill(scale))
            s.store_f32(
                to + 4 * (j * k_dim + i), v
            )  # may write into the next query, which comes later


@device
def _leave(stats: Ptr, sums: Ptr, width: Int, to: Ptr) -> None:
    """A query's partial result of one span: sums [width], maximum, sum of weights, 1 if it has
    any."""
    sees = s.get_i64(stats + softmax.FIRST) < s.get_i64(stats + softmax.LAST)
    for i in range(0, width, 16):
        s.store_f32(to + 4 * i, s.load_f32(sums + 4 * i))
    s.set_f32(to + 4 * width, s.get_f32(stats + softmax.SPAN_TOP) if sees else softmax.NONE)
    s.set_f32(to + 4 * width + 4, s.get_f32(stats + softmax.SPAN_SUM) if sees else f32(0.0))
    s.set_i64(to + 4 * width + 8, 1 if sees else 0)


@device
def _fold(stats: Ptr, sums: Ptr, width: Int, acc: Ptr) -> None:
    """Fold a query's span into what it has seen, if it sees a key of it."""
    if s.get_i64(stats + softmax.FIRST) < s.get_i64(stats + softmax.LAST):
        top, total = s.get_f32(stats + softmax.SPAN_TOP), s.get_f32(stats + softmax.SPAN_SUM)
        softmax.fold(stats, acc, top, total, sums, width)


@device
def _finish(
    row: Int, head: Int, stats: Ptr, acc: Ptr, sinks: Ptr, y: Ptr, y_stride: Int, width: Int,
    latent: Int,
) -> None:  # fmt: skip
    """Write the result of a query."""
    sink = s.get_f32(sinks + 4 * head) if sinks != 0 else softmax.NONE
    softmax.finish(stats, acc, sink, y + 4 * (row * y_stride + head * width), width, latent)


def _attend(kind: str, latent: bool, narrow: int) -> Callable[..., None]:
    span, size = span_of(kind, latent, narrow), micro.BYTES[kind]
    extra = 4 if size == 1 else 0

    def run(
        step: Ptr, tid: Int, nt: Int,
        items: Ptr, q: Ptr, q_stride: Int, y: Ptr, y_stride: Int, group: Int, layer: Int,
        kv_heads: Int, k_dim: Int, width: Int, block: Int, rows: Int, chunk: Int, window: Int,
        causal: Int, scale: Float, cap: Float, slopes: Ptr, distances: Ptr, reach: Int, lens: Int,
        sinks: Ptr, scratch: Ptr, scratch_bytes: Int, partial: Ptr, partial_bytes: Int,
    ) -> None:  # fmt: skip
        """Threads take items in turn."""
        record = step + group
        k_base = s.get_i64(record + header.K) + layer * s.get_i64(record + header.K_LAYER)
        v_base = s.get_i64(record + header.V) + layer * s.get_i64(record + header.V_LAYER)
        table = s.get_i64(record + header.TABLE)
        table_width = s.get_i64(record + header.TABLE_WIDTH)
        starts, own = s.get_i64(step + header.SEQ_STARTS), s.get_i64(step + header.KV_LENS)
        key_counts = s.get_i64(step + lens)
        until = s.get_i64(step + header.UNTIL) if causal != 0 else 0
        k_bytes, v_bytes = KEYS * (k_dim * size + extra), KEYS * (width * size + extra)
        queries, vp = rows * chunk, (width + 15) & ~15
        q_at = scratch + tid * scratch_bytes
        scores = q_at + 4 * queries * ((k_dim + 15) & ~15)
        part = scores + queries * SCORES
        acc = part + 4 * queries * vp
        stats = acc + 4 * queries * vp
        keys = stats + queries * STATS
        values = keys + 8 * POINTERS
        split = s.get_i64(items + work.SPLIT) != 0
        for number in range(tid, s.get_i64(items + work.COUNT), nt):
            item = items + work.ITEMS + work.ITEM_BYTES * number
            b, h = s.get_i64(item + work.SEQUENCE), s.get_i64(item + work.KV_HEAD)
            head, here = s.get_i64(item + work.HEAD), s.get_i64(item + work.HEADS)
            t, stop = s.get_i64(item + work.FIRST), s.get_i64(item + work.LAST)
            length = s.get_i64(key_counts + 8 * b)
            base = s.get_i64(own + 8 * b) - s.get_i64(starts + 8 * b + 8)
            blocks = table + 4 * b * table_width
            count = (stop - t) * here
            slope = slopes + 4 * head if slopes != 0 else 0
            added = distances + 4 * (2 * reach + 1) * head if distances != 0 else 0
            _load_queries(q, q_stride, t, head, here, count, k_dim, scale, q_at)
            if not split:
                for j in range(count):
                    softmax.start(stats + STATS * j, acc + 4 * vp * j, vp)
            first = s.get_i64(item + work.SPAN_NUMBER)
            for n in range(first, first + (1 if split else s.get_i64(item + work.SPANS))):
                begin = n * SPAN
                low = s.larger(lowest(base + t, window) - begin, 0)
                end = beyond(base + stop - 1, window, length, causal)
                if until != 0:
                    end = s.get_i64(until + 8 * (stop - 1)) + 1
                high = s.smaller(end - begin, SPAN)
                find(blocks, begin, low, high, h, kv_heads, block, k_base, k_bytes, keys)
                if not latent:
                    find(blocks, begin, low, high, h, kv_heads, block, v_base, v_bytes, values)
                span(
                    count, here, base + t, begin, window, length, causal, q_at, k_dim, width,
                    scores, part, stats, keys, values, cap, slope, added, reach,
                    until + 8 * t if until != 0 else 0,
                )  # fmt: skip
                for j in range(count):
                    of, sums = stats + STATS * j, part + 4 * vp * j
                    if split:
                        _leave(of, sums, vp, partial + (number * queries + j) * partial_bytes)
                    else:
                        _fold(of, sums, vp, acc + 4 * vp * j)
            if not split:
                for j in range(count):
                    _finish(
                        t + s.idiv(j, here), head + s.imod(j, here), stats + STATS * j,
                        acc + 4 * vp * j, sinks, y, y_stride, width, 1 if latent else 0,
                    )  # fmt: skip

    return run


def _combine(
    step: Ptr, tid: Int, nt: Int,
    items: Ptr, y: Ptr, y_stride: Int, width: Int, latent: Int, rows: Int, chunk: Int,
    sinks: Ptr, scratch: Ptr, scratch_bytes: Int, partial: Ptr, partial_bytes: Int,
) -> None:  # fmt: skip
    """Fold the partial results of each query in span order. Threads share rows."""
    if s.get_i64(items + work.SPLIT) == 0:
        return
    n = s.get_i64(step + header.N)
    mine, mine_end = share(tid, nt, n), share(tid + 1, nt, n)
    queries, vp = rows * chunk, (width + 15) & ~15
    stats = scratch + tid * scratch_bytes
    acc = stats + STATS
    number, count = 0, s.get_i64(items + work.COUNT)
    while number < count:  # the first item of each unit
        item = items + work.ITEMS + work.ITEM_BYTES * number
        t, stop = s.get_i64(item + work.FIRST), s.get_i64(item + work.LAST)
        head, here = s.get_i64(item + work.HEAD), s.get_i64(item + work.HEADS)
        spans = s.get_i64(item + work.SPANS)
        for row in range(s.larger(t, mine), s.smaller(stop, mine_end)):
            for k in range(here):
                softmax.start(stats, acc, vp)
                for i in range(number, number + spans):
                    of = partial + (i * queries + (row - t) * here + k) * partial_bytes
                    if s.get_i64(of + 4 * vp + 8) != 0:
                        top, total = s.get_f32(of + 4 * vp), s.get_f32(of + 4 * vp + 4)
                        softmax.fold(stats, acc, top, total, of, vp)
                _finish(row, head + k, stats, acc, sinks, y, y_stride, width, latent)
        number += spans


def build(variant: str) -> Kernel:
    """`attend.<kv dtype>`, `attend.<kv dtype>-<v_dim>` where values have fewer than 16 columns,
    `attend.<kv dtype>-latent` where they are the keys' first columns; `attend.plan` before them,
    `attend.combine` after them."""
    if variant in ("plan", "combine"):
        return kernel(f"attend.{variant}")(_plan if variant == "plan" else _combine)
    kind, _, rest = variant.partition("-")
    narrow = 0 if rest in ("", "latent") else int(rest)
    return kernel(f"attend.{variant}")(_attend(kind, rest == "latent", narrow))
