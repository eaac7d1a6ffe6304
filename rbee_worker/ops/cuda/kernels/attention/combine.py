"""Partial results of the splits of a sequence's keys, and how they become one result.

A row's keys are cut into up to SPLITS parts, each of which leaves its sum of weighted values, not
yet divided, and its highest exponent and total weight. Parts are combined in their order, by the
last program that finishes or by a kernel of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def store_partial(
    partial, extremes, rows, real, filled, split, top, total, acc0, acc1,
    SPLITS: tl.constexpr, V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr,
):  # fmt: skip
    """One split's result. rows int64 [M]: unit * heads + head; a unit is a row or a sequence.

    partial: float32 [units, heads, SPLITS, V_DIM]; extremes: float32 [units, heads, SPLITS, 2].
    filled: the split is live and has values.
    """
    valid = real & filled
    place = rows * SPLITS + split
    at = partial + (place * V_DIM)[:, None]
    column0 = tl.arange(0, V0)[None, :]
    tl.store(at + column0, acc0, mask=valid[:, None] & (column0 < V_DIM))
    if V1 > 0:
        column1 = V0 + tl.arange(0, V1)[None, :]
        tl.store(at + column1, acc1, mask=valid[:, None] & (column1 < V_DIM))
    tl.store(extremes + place * 2, top, mask=real)
    tl.store(extremes + place * 2 + 1, total, mask=real)


@triton.jit
def weighted_sum(
    at, weight, some, START: tl.constexpr, WIDTH: tl.constexpr, V_DIM: tl.constexpr
):  # fmt: skip
    """Columns START .. of the partial sums at `at` [SPLITS, H], summed with their weights."""
    column = START + tl.arange(0, WIDTH)[None, None, :]
    mask = some[:, :, None] & (column < V_DIM)
    # Only the L2 cache has what other programs have just written.
    x = tl.load(at[:, :, None] + column, mask=mask, other=0.0, cache_modifier=".cg")
    return tl.sum(x * weight[:, :, None], 0)


@triton.jit
def combine(
    partial, extremes, sinks, out, unit, row, first_head, last_head, active,
    HEADS: tl.constexpr, BLOCK_HEADS: tl.constexpr, SPLITS: tl.constexpr, V_DIM: tl.constexpr,
    V0: tl.constexpr, V1: tl.constexpr, SINKS: tl.constexpr, HOLES: tl.constexpr,
):  # fmt: skip
    """The result of heads first_head .. last_head of a unit, from its `active` first splits, to a
    row of `out`.

    HOLES: a split whose highest exponent is -inf has stored no values.
    """
    split = tl.arange(0, SPLITS)[:, None]
    head = first_head + tl.arange(0, BLOCK_HEADS)[None, :]
    real = head < last_head
    some = (split < active) & real
    place = (unit * HEADS + head) * SPLITS + split
    top = tl.load(extremes + place * 2, mask=some, other=float("-inf"), cache_modifier=".cg")
    total = tl.load(extremes + place * 2 + 1, mask=some, other=0.0, cache_modifier=".cg")
    if HOLES:
        some = some & (top != float("-inf"))
    high = tl.max(top, 0)
    sink = high
    if SINKS:
        sink = tl.load(sinks + head, mask=real, other=0.0) * 1.4426950408889634
        sink = tl.max(tl.broadcast_to(sink, [SPLITS, BLOCK_HEADS]), 0)
        high = tl.maximum(high, sink)
    high = tl.where(high == float("-inf"), 0.0, high)
    weight = tl.exp2(top - high[None, :])
    whole = tl.sum(total * weight, 0)
    if SINKS:
        whole += tl.exp2(sink - high)
    whole = tl.where(whole > 0.0, whole, 1.0)[:, None]
    at = partial + place * V_DIM
    here = first_head + tl.arange(0, BLOCK_HEADS)
    to = out + ((row * HEADS + here) * V_DIM)[:, None]
    stored = (here < last_head)[:, None]
    y = weighted_sum(at, weight, some, 0, V0, V_DIM) / whole
    column0 = tl.arange(0, V0)[None, :]
    tl.store(to + column0, y.to(out.dtype.element_ty), mask=stored & (column0 < V_DIM))
    if V1 > 0:
        z = weighted_sum(at, weight, some, V0, V1, V_DIM) / whole
        column1 = V0 + tl.arange(0, V1)[None, :]
        tl.store(to + column1, z.to(out.dtype.element_ty), mask=stored & (column1 < V_DIM))


@triton.jit
def combine_rows(
    partial, extremes, sinks, out, seq_starts,
    HEADS: tl.constexpr, BLOCK_HEADS: tl.constexpr, SPLITS: tl.constexpr, V_DIM: tl.constexpr,
    V0: tl.constexpr, V1: tl.constexpr, SINKS: tl.constexpr, SINGLE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """`combine` as a kernel: grid (units, blocks of heads).

    SINGLE: units are sequences, and only those with a single row; otherwise they are rows.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    unit = tl.program_id(0).to(tl.int64)
    row = unit
    live = unit >= 0
    if SINGLE:
        row = tl.load(seq_starts + unit).to(tl.int64)
        live = tl.load(seq_starts + unit + 1) == row + 1
    if live:
        head = tl.program_id(1) * BLOCK_HEADS
        combine(
            partial, extremes, sinks, out, unit, row, head, HEADS, SPLITS,
            HEADS, BLOCK_HEADS, SPLITS, V_DIM, V0, V1, SINKS, True,
        )  # fmt: skip
