"""The kernel of `attend`: tiles of a sequence's queries against tiles of its cached keys.

The heads that share keys are rows of one product: query row r and head g of a group of G are row
r * G + g of a sequence's M = rows * G, cut into tiles of BM.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.attention.combine import combine, store_partial
from rbee_worker.ops.cuda.kernels.attention.fold import (
    add_sink,
    end_seen,
    load_columns,
    lowest_seen,
    store_columns,
)
from rbee_worker.ops.cuda.kernels.attention.walk import walk

ONE_ROW = tl.constexpr(0)  # every sequence has one row: row b is sequence b's
SINGLE_ROWS = tl.constexpr(1)  # only sequences with one row, the others are somebody else's
LONGER = tl.constexpr(2)  # only sequences with more rows
ALL = tl.constexpr(3)

DIRECT = tl.constexpr(0)  # no splits
LAST_COMBINES = tl.constexpr(1)  # the last program of a head combines the splits
LATER = tl.constexpr(2)  # a kernel of its own combines them


@triton.jit
def locate(tile, seq_starts, sequences, G: tl.constexpr, BM: tl.constexpr):
    """Which sequence a tile belongs to, and which of its tiles it is (maybe one too many).

    Sequence b's tiles start at number seq_starts[b] * G // BM + b, which leaves room for all of
    them: tiles are found without a list from the host.
    """
    found = 0
    for first in range(0, sequences, 64):
        index = first + tl.arange(0, 64)
        some = index < sequences
        start = tl.load(seq_starts + index, mask=some, other=0).to(tl.int32)
        found += tl.sum((some & (start * G // BM + index <= tile)).to(tl.int32), 0)
    b = found - 1
    start = tl.load(seq_starts + b).to(tl.int32)
    return b, tile - (start * G // BM + b)


@triton.jit(do_not_specialize=["sequences", "table_row", "window", "chunk", "reach"])
def attend_rows(
    q, k, v, table, seq_starts, kv_lens, positions, until, slopes, sinks,
    out, partial, extremes, counters,
    sequences, q_row, k_block, k_row, k_head, v_block, v_row, v_head, table_row,
    factor, scale, cap, cap_scale, window, chunk, reach,
    HEADS: tl.constexpr, G: tl.constexpr, BLOCK: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
    K_DIM: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr, LATENT: tl.constexpr,
    CAUSAL: tl.constexpr, WINDOW: tl.constexpr, CHUNK: tl.constexpr, CAP: tl.constexpr,
    SLOPES: tl.constexpr, SINKS: tl.constexpr,
    WHICH: tl.constexpr, SPLITS: tl.constexpr, MIN_TILES: tl.constexpr, COMBINE: tl.constexpr,
    TOGETHER: tl.constexpr, AT_ONCE: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (tiles of queries, kv_heads, SPLITS); tensors as in `attend`, strides in elements.

    WHICH: the sequences that this launch computes. A tile's keys are cut into at most SPLITS parts
    of at least MIN_TILES tiles; see `combine` for what becomes of them.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    h = tl.program_id(1)
    split = tl.program_id(2)
    if WHICH >= LONGER:
        # The tiles with most keys come first.
        tile = tl.num_programs(0) - 1 - tl.program_id(0)
        b, part = locate(tile, seq_starts, sequences, G, BM)
    else:
        parts: tl.constexpr = (G + BM - 1) // BM
        b = tl.program_id(0) // parts
        part = tl.program_id(0) % parts
    if WHICH == ONE_ROW:
        first_row = b
        rows = 1
    else:
        first_row = tl.load(seq_starts + b).to(tl.int32)
        rows = tl.load(seq_starts + b + 1).to(tl.int32) - first_row
    live = part * BM < rows * G
    if WHICH == SINGLE_ROWS:
        live = live & (rows == 1)
    if WHICH == LONGER:
        live = live & (rows > 1)
    if live:
        length = tl.load(kv_lens + b).to(tl.int32)
        m = part * BM + tl.arange(0, BM)
        real = m < rows * G
        row = (first_row + m // G).to(tl.int64)
        head = h * G + m % G
        at = tl.load(positions + row, mask=real, other=0).to(tl.int32)
        upto = tl.load(until + row, mask=real, other=0).to(tl.int32)
        high = tl.max(tl.where(real, end_seen(upto, length, window, CAUSAL, WINDOW), 0), 0)
        low = tl.min(tl.where(real, lowest_seen(at, window, chunk, WINDOW, CHUNK), 2147483647), 0)
        first_tile = low // BN
        last_tile = tl.maximum(tl.cdiv(high, BN), first_tile)
        each = tl.maximum(tl.cdiv(last_tile - first_tile, SPLITS), MIN_TILES)
        active = tl.maximum(tl.cdiv(last_tile - first_tile, each), 1)
        begin = first_tile + split * each
        end = tl.minimum(begin + each, last_tile)
        top = tl.full([BM], float("-inf"), tl.float32)
        total = tl.zeros([BM], tl.float32)
        acc0 = tl.zeros([BM, V0], tl.float32)
        acc1 = 0
        if V1 > 0:
            acc1 = tl.zeros([BM, V1], tl.float32)
        if split < active:
            q_rows = (q + row * q_row + head * K_DIM)[:, None]
            q0 = load_columns(q_rows, real[:, None], 0, K0, K_DIM)
            q1 = 0
            if K1 > 0:
                q1 = load_columns(q_rows, real[:, None], K0, K1, K_DIM)
            slope = at.to(tl.float32)
            if SLOPES == 2:
                slope = slopes + head * (2 * reach + 1) + reach
            elif SLOPES:
                slope = tl.load(slopes + head, mask=real, other=0.0)
            k_pages = k + h.to(tl.int64) * k_head
            v_pages = v
            if not LATENT:
                v_pages = v + h.to(tl.int64) * v_head
            pages = table + b.to(tl.int64) * table_row
            # Tiles from whole_begin to whole_end are seen by all rows, and need no mask.
            whole_begin = end
            whole_end = end
            if WHICH >= LONGER:
                ends = end_seen(upto, length, window, CAUSAL, WINDOW)
                lows = lowest_seen(at, window, chunk, WINDOW, CHUNK)
                whole_begin = tl.cdiv(tl.max(tl.where(real, lows, 0), 0), BN)
                whole_end = tl.min(tl.where(real, ends, 2147483647), 0) // BN
                whole_begin = tl.minimum(tl.maximum(whole_begin, begin), end)
                whole_end = tl.minimum(tl.maximum(whole_end, whole_begin), end)
                if WINDOW or CHUNK:
                    top, total, acc0, acc1 = walk(
                        top, total, acc0, acc1, q0, q1, slope, at, upto, begin, whole_begin,
                        k_pages, v_pages, pages, low, high, length,
                        k_block, k_row, v_block, v_row,
                        factor, scale, cap, cap_scale, window, chunk, reach,
                        BN, BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, LATENT,
                        CAUSAL, WINDOW, CHUNK, CAP, SLOPES, True, STAGES,
                    )  # fmt: skip
                top, total, acc0, acc1 = walk(
                    top, total, acc0, acc1, q0, q1, slope, at, upto, whole_begin,
                    whole_end,
                    k_pages, v_pages, pages, low, high, length,
                    k_block, k_row, v_block, v_row,
                    factor, scale, cap, cap_scale, window, chunk, reach,
                    BN, BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, LATENT,
                    CAUSAL, WINDOW, CHUNK, CAP, SLOPES, False, STAGES,
                )  # fmt: skip
                begin = whole_end
            top, total, acc0, acc1 = walk(
                top, total, acc0, acc1, q0, q1, slope, at, upto, begin, end,
                k_pages, v_pages, pages, low, high, length,
                k_block, k_row, v_block, v_row,
                factor, scale, cap, cap_scale, window, chunk, reach,
                BN, BLOCK, K_DIM, K0, K1, V_DIM, V0, V1, LATENT,
                CAUSAL, WINDOW, CHUNK, CAP, SLOPES, True, STAGES,
            )  # fmt: skip
        unit = row
        if WHICH < LONGER:
            unit = row * 0 + b
        finish(
            top, total, acc0, acc1, row, unit, head, real, split, active,
            sinks, out, partial, extremes, counters, b, first_row, h,
            HEADS, G, V_DIM, V0, V1, SINKS, SPLITS, COMBINE, TOGETHER, AT_ONCE,
        )  # fmt: skip


@triton.jit
def finish(
    top, total, acc0, acc1, row, unit, head, real, split, active,
    sinks, out, partial, extremes, counters, only_unit, only_row, h,
    HEADS: tl.constexpr, G: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr, SINKS: tl.constexpr,
    SPLITS: tl.constexpr, COMBINE: tl.constexpr, TOGETHER: tl.constexpr, AT_ONCE: tl.constexpr,
):  # fmt: skip
    """Store a tile's result, or its split's part; the last program of a head combines the parts.

    row, unit, head [M]: where a result goes, in `out` and among the parts. With LAST_COMBINES a
    tile has one row (only_row, only_unit) and the heads of one group (h).
    """
    parts = unit * HEADS + head
    if COMBINE == LATER:
        # compared as vectors: Triton 3.9 interprets no mask with a scalar in it
        live = real & (split + row * 0 < active)
        store_partial(
            partial, extremes, parts, real, live, split, top, total, acc0, acc1,
            SPLITS, V_DIM, V0, V1,
        )  # fmt: skip
    elif split < active:
        if active == 1:
            if SINKS:
                sink = tl.load(sinks + head, mask=real, other=0.0) * 1.4426950408889634
                top, total, acc0, acc1 = add_sink(top, total, acc0, acc1, sink, V1)
            whole = tl.where(total > 0.0, total, 1.0)[:, None]
            to = (out + (row * HEADS + head) * V_DIM)[:, None]
            store_columns(to, real[:, None], acc0 / whole, 0, V0, V_DIM)
            if V1 > 0:
                store_columns(to, real[:, None], acc1 / whole, V0, V1, V_DIM)
        else:
            if COMBINE == LAST_COMBINES:
                store_partial(
                    partial, extremes, parts, real, real, split, top, total, acc0, acc1,
                    SPLITS, V_DIM, V0, V1,
                )  # fmt: skip
                tl.debug_barrier()
                counter = counters + only_unit * (HEADS // G) + h
                if tl.atomic_add(counter, 1, sem="acq_rel", scope="gpu") == active - 1:
                    tl.debug_barrier()
                    combine(
                        partial, extremes, sinks, out,
                        only_unit.to(tl.int64), only_row.to(tl.int64), h * G, h * G + G, active,
                        HEADS, TOGETHER, SPLITS, AT_ONCE, V_DIM, V0, V1, SINKS, False,
                    )  # fmt: skip
                    tl.store(counter, 0)
