"""Limits: the last token that top_k or top_p keeps, found without sorting a row.

In the order of a row's tokens (by logit, then by id) both keep a prefix, up to the first token at
which its size reaches a target. A size is a number of tokens, or the sum of their weights. The
limit's logit lies in an interval of float32 numbers as integers (`order.py`). In each pass every
program sums the sizes of 16 parts of the interval in its chunk, and the next pass goes on with the
part in which the target is reached, until it has one number. Its tokens are equal, so they have
equal weights, and the first of them are kept.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.order import LOWEST, ordered
from rbee_worker.ops.cuda.kernels.sampling.peaks import Peaks
from rbee_worker.ops.cuda.kernels.sampling.rows import (
    BLOCK,
    GENERAL,
    KIND,
    SCALE,
    TOP_K,
    TOP_P,
    chunk_of,
    kept_by,
    setting,
    top_of,
    weight,
)

_PARTS = tl.constexpr(16)
_PASSES = 9  # the first has parts of its own; eight of 16 parts divide 2**32 numbers
_STATE = 8  # float64 numbers of a row's state: low, high, above, target, inside
_ALL = tl.constexpr(-4294967296.0)  # below every ordered number: a limit that keeps everything
_LAST = tl.constexpr(2147483647.0)


@triton.jit
def _borders(low, high, top, scale, FIRST: tl.constexpr):
    """The lowest number of each part [16], int64, ascending.

    At first parts are short near the top, where most of the weight is: they begin at distances of
    1/8, 1/2, 9/8, ... times the temperature from it.
    """
    j = tl.arange(0, _PARTS)
    if FIRST:
        i = _PARTS + 0.0 - j.to(tl.float64)
        at = ordered((top.to(tl.float64) - i * i * 0.125 / scale).to(tl.float32)).to(tl.int64)
        borders = tl.where(j == 0, low, tl.maximum(at, low))
    else:
        borders = low + (high - low) * j // _PARTS
    return borders


@triton.jit
def _state(
    state, sizes, settings, top, row, chunks, CP: tl.constexpr, PASS: tl.constexpr,
    BY_COUNT: tl.constexpr,
):  # fmt: skip
    """A row's interval [low, high), the size of what is above it, the target, and the size of what
    is inside, after PASS passes. state and sizes: of the pass before."""
    scale = setting(settings, row, SCALE)
    if BY_COUNT:
        target = setting(settings, row, TOP_K)
        searched = target > 0
    else:
        target = setting(settings, row, TOP_P)
        searched = target < 1
    if PASS == 0:
        searched = searched & (setting(settings, row, KIND) == GENERAL)
        low = tl.where(searched, LOWEST, 0).to(tl.int64)
        high = tl.where(searched, ordered(top) + 1, 0).to(tl.int64)
        above, inside = target * 0, target * 0
    else:
        low = tl.load(state + row * 8).to(tl.int64)
        high = tl.load(state + row * 8 + 1).to(tl.int64)
        above = tl.load(state + row * 8 + 2)
        inside = tl.load(state + row * 8 + 4)
        if high - low > 1:
            c, j = tl.arange(0, CP), tl.arange(0, _PARTS)
            parts = tl.load(
                sizes + (row * chunks + c[:, None]) * _PARTS + j[None, :],
                mask=(c < chunks)[:, None], other=0.0,
            )  # fmt: skip
            part = tl.sum(parts, 0)
            from_ = above + tl.cumsum(part, 0, reverse=True)  # the size of what is in j and higher
            if PASS > 1 or BY_COUNT:
                target = tl.load(state + row * 8 + 3)
            else:
                target = target * tl.sum(tl.where(j == 0, from_, 0.0), 0)
            found = tl.max(tl.where((from_ >= target) & (from_ > 0), j, 0), 0)
            borders = _borders(low, high, top, scale, PASS == 1)
            above = above + tl.sum(tl.where(j > found, part, 0.0), 0)
            inside = tl.sum(tl.where(j == found, part, 0.0), 0)
            high = tl.minimum(high, tl.min(tl.where(j > found, borders, high), 0))
            low = tl.max(tl.where(j <= found, borders, low), 0)
        else:
            target = tl.load(state + row * 8 + 3)
    return low, high, above, target, inside


@triton.jit
def _narrow(
    z, tops, settings, limits, before, after, sizes_before, sizes_after, stride, vocab, chunks,
    CP: tl.constexpr, PASS: tl.constexpr, BY_COUNT: tl.constexpr, LIMITED: tl.constexpr,
    CHUNK: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    top = top_of(tops, row, chunks, CP)
    low, high, above, target, inside = _state(
        before, sizes_before, settings, top, row, chunks, CP, PASS, BY_COUNT
    )
    if chunk == 0:
        tl.store(after + row * 8, low.to(tl.float64))
        tl.store(after + row * 8 + 1, high.to(tl.float64))
        tl.store(after + row * 8 + 2, above)
        tl.store(after + row * 8 + 3, target)
        tl.store(after + row * 8 + 4, inside)
    if high - low > 1:
        scale = setting(settings, row, SCALE)
        j = tl.arange(0, _PARTS)
        borders = _borders(low, high, top, scale, PASS == 0)
        ends = tl.min(tl.where(j[None, :] > j[:, None], borders[None, :], high), 1)
        acc = tl.zeros([_PARTS, BLOCK], tl.float64)
        first = chunk * CHUNK
        for start in range(first, tl.minimum(first + CHUNK, vocab), BLOCK):
            id_ = start + tl.arange(0, BLOCK)
            x = tl.load(z + row * stride + id_, mask=id_ < vocab, other=float("-inf"))
            key = ordered(x).to(tl.int64)
            size = (id_ < vocab) & (key >= low) & (key < high)
            if LIMITED:
                size = size & kept_by(
                    x, id_, tl.load(limits + row * 2), tl.load(limits + row * 2 + 1)
                )
            if tl.max(size.to(tl.int32), 0) > 0:
                if BY_COUNT:
                    w = size.to(tl.float64)
                else:
                    w = tl.where(size, weight(x, top, scale), 0.0)
                mine = (key[None, :] >= borders[:, None]) & (key[None, :] < ends[:, None])
                acc += tl.where(mine, w[None, :], 0.0)
        tl.store(sizes_after + (row * chunks + chunk) * _PARTS + j, tl.sum(acc, 1))


@triton.jit
def _settle(
    z, tops, settings, limits, before, sizes_before, out, stride, vocab, chunks, CP: tl.constexpr,
    PASS: tl.constexpr, BY_COUNT: tl.constexpr, LIMITED: tl.constexpr, CHUNK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """A row's limit: the number that is left, and the id of the last kept token equal to it."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    top = top_of(tops, row, chunks, CP)
    low, high, above, target, inside = _state(
        before, sizes_before, settings, top, row, chunks, CP, PASS, BY_COUNT
    )
    key, last = low.to(tl.float64), target * 0 + _LAST
    if LIMITED:
        limit = tl.load(limits + row * 2)
        if (high - low != 1) | (key == limit):
            key, last = limit, tl.load(limits + row * 2 + 1)
    elif high - low != 1:
        key = target * 0 + _ALL
    if high - low == 1:
        bits = tl.where(low < 0, low.to(tl.int32) ^ 0x7FFFFFFF, low.to(tl.int32))
        each = target * 0 + 1.0
        if not BY_COUNT:
            each = weight(bits.to(tl.float32, bitcast=True), top, setting(settings, row, SCALE))
        equal = tl.floor(inside / each + 0.5)
        wanted = tl.maximum(tl.ceil((target - above) / each), 1.0)
        wanted = tl.where(
            (above + (wanted - 1) * each >= target) & (wanted > 1), wanted - 1, wanted
        )
        wanted = tl.where(above + wanted * each < target, wanted + 1, wanted)
        if wanted < equal:
            seen = target * 0
            found = target * 0 - 1
            for start in range(0, vocab, CHUNK):
                id_ = start + tl.arange(0, CHUNK)
                x = tl.load(z + row * stride + id_, mask=id_ < vocab, other=float("nan"))
                same = (x == x) & (ordered(x).to(tl.int64) == low)
                place = seen + tl.cumsum(same.to(tl.int32), 0)
                found = tl.maximum(found, tl.max(tl.where(same & (place == wanted), id_, -1), 0))
                seen += tl.sum(same.to(tl.int32), 0)
            last = found
    tl.store(out + row * 2, key)
    tl.store(out + row * 2 + 1, last)


def limits(
    logits: Tensor,
    found: Peaks,
    settings: Tensor,
    *,
    by_count: bool,
    within: Tensor | None = None,
    pdl: bool = False,
) -> Tensor:
    """Each row's limit [S, 2] by top_k (by_count) or by top_p; where a row has no such parameter,
    `within`, or a limit that keeps everything. within: only tokens inside these limits count."""
    rows, vocab = logits.shape
    chunks, chunk = found.tops.shape[1], chunk_of(vocab)
    states = logits.new_empty((_PASSES, rows, _STATE), dtype=torch.float64)
    sizes = logits.new_empty((2, rows, chunks, _PARTS.value), dtype=torch.float64)
    out = logits.new_empty((rows, 2), dtype=torch.float64)
    how = {
        "CP": power_of_two(chunks), "BY_COUNT": by_count, "LIMITED": within is not None,
        "CHUNK": chunk, "num_warps": 8, **dependent(pdl),
    }  # fmt: skip
    for n in range(_PASSES):
        _narrow[(rows, chunks)](
            logits, found.tops, settings, within, states[n - 1], states[n], sizes[(n + 1) % 2],
            sizes[n % 2], logits.stride(0), vocab, chunks, PASS=min(n, 2), BLOCK=min(BLOCK, chunk),
            **how,
        )  # fmt: skip
    _settle[(rows,)](
        logits, found.tops, settings, within, states[-1], sizes[(_PASSES + 1) % 2], out,
        logits.stride(0), vocab, chunks, PASS=2, **how,
    )  # fmt: skip
    return out
