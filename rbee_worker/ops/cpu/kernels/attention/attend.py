"""Causal attention over paged keys, whose place `paged.py` describes.

A unit is a tile of consecutive tokens of a sequence by some query heads of one KV head; `span.py`
computes one span of keys for it, `softmax.py` holds the recurrence. Where there are fewer units
than keep the threads busy, an item is one span of a unit and leaves a partial result, which
`attend.combine` folds in span order; otherwise an item is a whole unit and folds as it goes. Both
do the same arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from rbee_worker.ops.cpu.compiler import simd as s
from rbee_worker.ops.cpu.compiler.kernel import Kernel, device, kernel
from rbee_worker.ops.cpu.compiler.simd import Float, Int, Ptr
from rbee_worker.ops.cpu.kernels.attention import micro, softmax
from rbee_worker.ops.cpu.kernels.attention.span import find, lowest, span_of
from rbee_worker.ops.cpu.kernels.shares import load_upto, share
from rbee_worker.ops.cpu.shared import step as header
from rbee_worker.ops.cpu.shared.paged import KEYS, POINTERS, SCORES, SPAN, STATS

f32 = np.float32


@device
def units_of(step: Ptr, rows: Int) -> Int:
    """Tiles of `rows` tokens in all sequences."""
    starts, count = s.get_i64(step + header.SEQ_STARTS), 0
    for b in range(s.get_i64(step + header.B)):
        tokens = s.get_i64(starts + 8 * b + 8) - s.get_i64(starts + 8 * b)
        count += s.idiv(tokens + rows - 1, rows)
    return count


@device
def splits(step: Ptr, threads: Int, rows: Int, per_tile: Int) -> Any:
    """Whether items are spans of units."""
    return units_of(step, rows) * per_tile < 2 * threads


def _attend(kind: str, latent: bool, narrow: int) -> Callable[..., None]:
    span, size = span_of(kind, latent, narrow), micro.BYTES[kind]
    extra = 4 if size == 1 else 0

    def run(
        step: Ptr, tid: Int, nt: Int,
        q: Ptr, q_stride: Int, y: Ptr, y_stride: Int, group: Int, layer: Int, heads: Int,
        kv_heads: Int, k_dim: Int, width: Int, block: Int, rows: Int, chunk: Int, threads: Int,
        window: Int, scale: Float, cap: Float, slopes: Ptr, sinks: Ptr, scratch: Ptr,
        scratch_bytes: Int, partial: Ptr, partial_bytes: Int,
    ) -> None:  # fmt: skip
        record, share_heads = step + group, s.idiv(heads, kv_heads)
        chunks = s.idiv(share_heads + chunk - 1, chunk)
        split = splits(step, threads, rows, kv_heads * chunks)
        k_base = s.get_i64(record + header.K) + layer * s.get_i64(record + header.K_LAYER)
        v_base = s.get_i64(record + header.V) + layer * s.get_i64(record + header.V_LAYER)
        table, table_width = (
            s.get_i64(record + header.TABLE),
            s.get_i64(record + header.TABLE_WIDTH),
        )
        starts, lens = s.get_i64(step + header.SEQ_STARTS), s.get_i64(step + header.KV_LENS)
        k_bytes, v_bytes = KEYS * (k_dim * size + extra), KEYS * (width * size + extra)
        queries, vp = rows * chunk, (width + 15) & ~15
        q_at = scratch + tid * scratch_bytes
        scores = q_at + 4 * queries * ((k_dim + 15) & ~15)
        part = scores + queries * SCORES
        acc = part + 4 * queries * vp
        stats = acc + 4 * queries * vp
        keys = stats + queries * STATS
        values = keys + 8 * POINTERS
        item = 0
        for b in range(s.get_i64(step + header.B)):
            start, end = s.get_i64(starts + 8 * b), s.get_i64(starts + 8 * b + 8)
            base = s.get_i64(lens + 8 * b) - end  # position of a row = base + row
            blocks = table + 4 * b * table_width
            for t in range(start, end, rows):
                stop = s.smaller(t + rows, end)
                first_span = s.idiv(lowest(base + t, window), SPAN)
                spans = s.idiv(base + stop - 1, SPAN) + 1 - first_span
                for h in range(kv_heads):
                    for c in range(chunks):
                        here = s.smaller(chunk, share_heads - c * chunk)
                        head = h * share_heads + c * chunk
                        count = (stop - t) * here
                        mine = s.imod(item, nt) == tid
                        slope = slopes + 4 * head if slopes != 0 else 0
                        if not split:
                            item += 1
                            if not mine:
                                continue
                            for j in range(count):
                                softmax.start(stats + STATS * j, acc + 4 * vp * j, vp)
                        loaded = False
                        for n in range(first_span, first_span + spans):
                            if split:
                                mine = s.imod(item, nt) == tid
                                item += 1
                            if not mine:
                                continue
                            if not loaded:
                                for j in range(count):
                                    row = t + s.idiv(j, here)
                                    p = q + 4 * (row * q_stride + (head + s.imod(j, here)) * k_dim)
                                    for i in range(0, k_dim, 16):
                                        v = s.mul(load_upto(p + 4 * i, k_dim - i), s.fill(scale))
                                        # spills into the next query, which is written later
                                        s.store_f32(q_at + 4 * (j * k_dim + i), v)
                                loaded = True
                            begin = n * SPAN
                            low = s.larger(lowest(base + t, window) - begin, 0)
                            high = s.smaller(base + stop - begin, SPAN)
                            find(
                                blocks, begin, low, high, h, kv_heads, block, k_base, k_bytes, keys
                            )
                            if not latent:
                                find(
                                    blocks, begin, low, high, h, kv_heads, block, v_base, v_bytes,
                                    values,
                                )  # fmt: skip
                            span(
                                count, here, base + t, begin, window, q_at, k_dim, width, scores,
                                part, stats, keys, values, cap, slope,
                            )  # fmt: skip
                            for j in range(count):
                                of, sums = stats + STATS * j, part + 4 * vp * j
                                sees = s.get_i64(of + softmax.FIRST) < s.get_i64(of + softmax.LAST)
                                top, total = softmax.NONE, f32(0.0)
                                if sees:
                                    top = s.get_f32(of + softmax.SPAN_TOP)
                                    total = s.get_f32(of + softmax.SPAN_SUM)
                                if split:
                                    to = partial + ((item - 1) * queries + j) * partial_bytes
                                    for i in range(0, vp, 16):
                                        s.store_f32(to + 4 * i, s.load_f32(sums + 4 * i))
                                    s.set_f32(to + 4 * vp, top)
                                    s.set_f32(to + 4 * vp + 4, total)
                                    s.set_i64(to + 4 * vp + 8, 1 if sees else 0)
                                elif sees:
                                    softmax.fold(of, acc + 4 * vp * j, top, total, sums, vp)
                        if not split:
                            for j in range(count):
                                row, number = t + s.idiv(j, here), head + s.imod(j, here)
                                sink = s.get_f32(sinks + 4 * number) if sinks != 0 else softmax.NONE
                                to = y + 4 * (row * y_stride + number * width)
                                softmax.finish(
                                    stats + STATS * j, acc + 4 * vp * j, sink, to, width,
                                    1 if latent else 0,
                                )  # fmt: skip

    return run


def _combine(
    step: Ptr, tid: Int, nt: Int,
    y: Ptr, y_stride: Int, heads: Int, kv_heads: Int, width: Int, latent: Int, rows: Int,
    chunk: Int, threads: Int, window: Int, sinks: Ptr, scratch: Ptr, scratch_bytes: Int,
    partial: Ptr, partial_bytes: Int,
) -> None:  # fmt: skip
    """Fold the partial results of each query in span order. Threads share rows."""
    share_heads = s.idiv(heads, kv_heads)
    chunks = s.idiv(share_heads + chunk - 1, chunk)
    if not splits(step, threads, rows, kv_heads * chunks):
        return
    n = s.get_i64(step + header.N)
    mine, mine_end = share(tid, nt, n), share(tid + 1, nt, n)
    starts, lens = s.get_i64(step + header.SEQ_STARTS), s.get_i64(step + header.KV_LENS)
    queries, vp = rows * chunk, (width + 15) & ~15
    stats = scratch + tid * scratch_bytes
    acc = stats + STATS
    item = 0
    for b in range(s.get_i64(step + header.B)):
        start, end = s.get_i64(starts + 8 * b), s.get_i64(starts + 8 * b + 8)
        base = s.get_i64(lens + 8 * b) - end
        for t in range(start, end, rows):
            stop = s.smaller(t + rows, end)
            first_span = s.idiv(lowest(base + t, window), SPAN)
            spans = s.idiv(base + stop - 1, SPAN) + 1 - first_span
            for h in range(kv_heads):
                for c in range(chunks):
                    here = s.smaller(chunk, share_heads - c * chunk)
                    for row in range(s.larger(t, mine), s.smaller(stop, mine_end)):
                        for k in range(here):
                            softmax.start(stats, acc, vp)
                            for i in range(item, item + spans):
                                at = i * queries + (row - t) * here + k
                                of = partial + at * partial_bytes
                                if s.get_i64(of + 4 * vp + 8) != 0:
                                    top = s.get_f32(of + 4 * vp)
                                    total = s.get_f32(of + 4 * vp + 4)
                                    softmax.fold(stats, acc, top, total, of, vp)
                            number = h * share_heads + c * chunk + k
                            sink = s.get_f32(sinks + 4 * number) if sinks != 0 else softmax.NONE
                            to = y + 4 * (row * y_stride + number * width)
                            softmax.finish(stats, acc, sink, to, width, latent)
                    item += spans


def build(variant: str) -> Kernel:
    """`attend.<kv dtype>`, `attend.<kv dtype>-<v_dim>` where values have fewer than 16 columns,
    `attend.<kv dtype>-latent` where they are the keys' first columns; `attend.combine`."""
    if variant == "combine":
        return kernel("attend.combine")(_combine)
    kind, _, rest = variant.partition("-")
    narrow = 0 if rest in ("", "latent") else int(rest)
    return kernel(f"attend.{variant}")(_attend(kind, rest == "latent", narrow))
