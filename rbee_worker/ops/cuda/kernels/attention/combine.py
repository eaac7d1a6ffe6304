"""Partial results of the splits of a sequence's keys, and how they become one result.

A row's keys are cut into up to SPLITS parts, each of which leaves its sum of weighted values, not
yet divided, and its highest exponent and total weight. Parts are combined in their order, by the
last program that finishes or by a kernel of its own.
"""

from __future__ import annotations

import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.attention.fold import store_columns


@triton.jit
def store_partial(
    partial, extremes, rows, real, valid, split, top, total, acc0, acc1,
    SPLITS: tl.constexpr, V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr,
):  # fmt: skip
    """One split's result. rows int64 [M]: unit * heads + head; a unit is a row or a sequence.

    partial: float32 [units, heads, SPLITS, V_DIM]; extremes: float32 [units, heads, SPLITS, 2].
    real, valid bool [M]: has a place; has values as well, which a split without keys has not.
    """
    place = rows * SPLITS + split
    at = partial + (place * V_DIM)[:, None]
    store_columns(at, valid[:, None], acc0, 0, V0, V_DIM)
    if V1 > 0:
        store_columns(at, valid[:, None], acc1, V0, V1, V_DIM)
    tl.store(extremes + place * 2, top, mask=real)
    tl.store(extremes + place * 2 + 1, total, mask=real)


@triton.jit
def weighted_sum(
    partial, place, weight, some, START: tl.constexpr, WIDTH: tl.constexpr, V_DIM: tl.constexpr
):
    """Columns START .. of the partial sums at `place` [C, H], summed with their weights."""
    column = START + tl.arange(0, WIDTH)[None, None, :]
    mask = some[:, :, None] & (column < V_DIM)
    # Only the L2 cache has what other programs have just written.
    at = partial + place[:, :, None] * V_DIM + column
    x = tl.load(at, mask=mask, other=0.0, cache_modifier=".cg")
    return tl.sum(x * weight[:, :, None], 0)


@triton.jit
def load_extremes(extremes, place, some):
    """The highest exponents (-inf: no part) and the total weights at `place`."""
    top = tl.load(extremes + place * 2, mask=some, other=float("-inf"), cache_modifier=".cg")
    total = tl.load(extremes + place * 2 + 1, mask=some, other=0.0, cache_modifier=".cg")
    return top, total


@triton.jit
def combine(
    partial, extremes, sinks, out, unit, row, first_head, last_head, active,
    HEADS: tl.constexpr, TOGETHER: tl.constexpr, SPLITS: tl.constexpr, AT_ONCE: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr, SINKS: tl.constexpr,
    HOLES: tl.constexpr,
):  # fmt: skip
    """The result of heads first_head .. last_head (at most TOGETHER) of a unit, from its `active`
    first splits, to a row of `out`. AT_ONCE: splits in registers at a time.

    HOLES: a split whose highest exponent is -inf has stored no values.
    """
    split = tl.arange(0, SPLITS)[:, None]
    heads = first_head + tl.arange(0, TOGETHER)
    head = heads[None, :]
    real = head < last_head
    first = (unit * HEADS + head) * SPLITS
    top, total = load_extremes(extremes, first + split, (split < active) & real)
    high = tl.max(top, 0)
    sink = high
    if SINKS:
        sink = tl.load(sinks + heads, mask=heads < last_head, other=0.0) * 1.4426950408889634
        high = tl.maximum(high, sink)
    high = tl.where(high == float("-inf"), 0.0, high)
    whole = tl.sum(total * tl.exp2(top - high[None, :]), 0)
    if SINKS:
        whole += tl.exp2(sink - high)
    acc0 = tl.zeros([TOGETHER, V0], tl.float32)
    acc1 = 0.0
    if V1 > 0:
        acc1 = tl.zeros([TOGETHER, V1], tl.float32)
    for begin in range(0, active, AT_ONCE):  # no name of another shape may be set again here
        number = begin + tl.arange(0, AT_ONCE)[:, None]
        some = (number < active) & real
        place = first + number
        exponent, _ = load_extremes(extremes, place, some)
        if HOLES:
            some = some & (exponent != float("-inf"))
        weight = tl.exp2(exponent - high[None, :])
        acc0 += weighted_sum(partial, place, weight, some, 0, V0, V_DIM)
        if V1 > 0:
            acc1 += weighted_sum(partial, place, weight, some, V0, V1, V_DIM)
    whole = tl.where(whole > 0.0, whole, 1.0)[:, None]
    to = (out + (row * HEADS + heads) * V_DIM)[:, None]
    stored = (heads < last_head)[:, None]
    store_columns(to, stored, acc0 / whole, 0, V0, V_DIM)
    if V1 > 0:
        store_columns(to, stored, acc1 / whole, V0, V1, V_DIM)


@triton.jit
def combine_rows(
    partial, extremes, sinks, out, seq_starts,
    HEADS: tl.constexpr, TOGETHER: tl.constexpr, SPLITS: tl.constexpr, AT_ONCE: tl.constexpr,
    V_DIM: tl.constexpr, V0: tl.constexpr, V1: tl.constexpr, SINKS: tl.constexpr,
    SINGLE: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """`combine` as a kernel: grid (units, blocks of heads).

    SINGLE: units are sequences, and only those with a single row count. Otherwise units are rows,
    and those whose total is below zero are not this launch's.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    unit = tl.program_id(0).to(tl.int64)
    row = unit
    if SINGLE:
        row = tl.load(seq_starts + unit).to(tl.int64)
        live = tl.load(seq_starts + unit + 1) == row + 1
    else:
        live = tl.load(extremes + unit * (HEADS * SPLITS * 2) + 1) >= 0.0
    if live:
        head = tl.program_id(1) * TOGETHER
        combine(
            partial, extremes, sinks, out, unit, row, head, HEADS, SPLITS,
            HEADS, TOGETHER, SPLITS, AT_ONCE, V_DIM, V0, V1, SINKS, True,
        )  # fmt: skip
