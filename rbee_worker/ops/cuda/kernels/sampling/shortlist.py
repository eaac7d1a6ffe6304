"""Draws among a few most likely tokens: rows with a small top_k, in two launches.

Each chunk of a row gives at least its top_k most likely tokens, in the order of ids. One program
then finds the row's own among them; they are so few that all are compared with all.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.order import LOWEST, ordered, value_of
from rbee_worker.ops.cuda.kernels.sampling.peaks import Peaks, best_of, write_peak
from rbee_worker.ops.cuda.kernels.sampling.rows import (
    GENERAL,
    KIND,
    MIN_P,
    SCALE,
    SHORT,
    TOP_K,
    TOP_P,
    U,
    chunk_of,
    setting,
    top_of,
    weight,
)

_MOST = 128  # the largest top_k
_CANDIDATES = 16384  # most of all chunks together
_GUESSES = 12  # steps that halve the distance of logits; later ones halve the numbers between them


def most_top_k(vocab: int) -> int:
    """The largest top_k of rows that can be drawn here."""
    chunks = power_of_two(triton.cdiv(vocab, chunk_of(vocab)))
    top_k = _MOST
    while chunks * _room(top_k, vocab) > _CANDIDATES:
        top_k //= 2
    return top_k


def _room(top_k: int, vocab: int) -> int:
    """Candidates that a chunk may give. It gives what is above some border, at least top_k; the
    more it may give, the sooner a border is found."""
    return min(2 * power_of_two(top_k), chunk_of(vocab))


@triton.jit
def _halve(low, high, step, GUESSES: tl.constexpr):
    """A number between low and high, at least 2 apart."""
    guess = ordered(0.5 * value_of(low) + 0.5 * value_of(high)).to(tl.int64)
    middle = low + (high - low) // 2
    return tl.where((step < GUESSES) & (guess > low) & (guess < high), guess, middle)


@triton.jit
def _first_equal(key, low, wanted):
    """Which keys are above `low`, or equal to it and among the first, so that at most `wanted`
    are."""
    above, equal = key > low.to(tl.int32), key == low.to(tl.int32)
    room = wanted - tl.sum(above.to(tl.int32), 0)
    return above | (equal & (tl.cumsum(equal.to(tl.int32), 0) <= room))


@triton.jit
def _candidates(
    z, settings, tops, best, logits, ids, counts, stride, vocab, chunks, CHUNK: tl.constexpr,
    ROOM: tl.constexpr, GUESSES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The likeliest tokens of a chunk, and its peak."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    id_ = chunk * CHUNK + tl.arange(0, CHUNK)
    real = id_ < vocab
    x = tl.load(z + row * stride + id_, mask=real, other=float("-inf"))
    write_peak(x, id_, tops, best, row * chunks + chunk)
    if setting(settings, row, KIND) == SHORT:
        wanted = setting(settings, row, TOP_K).to(tl.int32)
        key = tl.where(real, ordered(x), LOWEST - 1)
        low = tl.max(key, 0).to(tl.int64) * 0 + LOWEST
        high = tl.max(key, 0).to(tl.int64) + 1
        number = tl.sum(real.to(tl.int32), 0)
        step = 0
        finite = tl.where(x > float("-inf"), key, 0x7FFFFFFF)
        middle = tl.min(finite, 0).to(tl.int64)
        while (number > ROOM) & (high - low > 1):
            if (middle <= low) | (middle >= high):
                middle = _halve(low, high, step, GUESSES)
            reach = tl.sum((key >= middle.to(tl.int32)).to(tl.int32), 0)
            if reach >= wanted:
                low, number = middle, reach
            else:
                high = middle
            middle = low
            step += 1
        keep = _first_equal(key, low, ROOM)
        at = (row * chunks + chunk) * ROOM
        place = tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(logits + at + place, x, mask=keep)
        tl.store(ids + at + place, id_, mask=keep)
        tl.store(counts + row * chunks + chunk, tl.sum(keep.to(tl.int32), 0))


@triton.jit
def _decide(
    settings, tops, best, logits, ids, counts, few_logits, few_ids, out, chunks,
    CP: tl.constexpr, ROOM: tl.constexpr, FEW: tl.constexpr, GUESSES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """A row's draw among its candidates. few_logits, few_ids: room for FEW of each row."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    kind = setting(settings, row, KIND)
    found = best_of(tops, best, row, chunks, CP)
    if (kind == SHORT) & (found >= 0):
        wanted = setting(settings, row, TOP_K).to(tl.int32)
        i = tl.arange(0, CP * ROOM)
        chunk = i // ROOM
        there = tl.load(counts + row * chunks + chunk, mask=chunk < chunks, other=0) > i % ROOM
        at = row * chunks * ROOM + i
        x = tl.load(logits + at, mask=there, other=float("-inf"))
        key = tl.where(there, ordered(x), LOWEST - 1)
        low = tl.max(key, 0).to(tl.int64) * 0 + LOWEST
        high = tl.max(key, 0).to(tl.int64) + 1
        number = tl.sum(there.to(tl.int32), 0)
        step = 0
        while (number > wanted) & (high - low > 1):
            middle = _halve(low, high, step, GUESSES)
            reach = tl.sum((key >= middle.to(tl.int32)).to(tl.int32), 0)
            if reach >= wanted:
                low, number = middle, reach
            else:
                high = middle
            step += 1
        keep = _first_equal(key, low, wanted)
        place = row * FEW + tl.cumsum(keep.to(tl.int32), 0) - 1
        tl.store(few_logits + place, x, mask=keep)
        tl.store(few_ids + place, tl.load(ids + at, mask=keep, other=0), mask=keep)
        tl.debug_barrier()

        j = tl.arange(0, FEW)
        z = tl.load(few_logits + row * FEW + j, mask=j < wanted, other=float("-inf"))
        id_ = tl.load(few_ids + row * FEW + j, mask=j < wanted, other=0)
        w = weight(z, top_of(tops, row, chunks, CP), setting(settings, row, SCALE))
        w = tl.where(j < wanted, w, 0.0)
        # Ids ascend, so of equal logits the one with the lower place comes first.
        earlier = (z[None, :] > z[:, None]) | (
            (z[None, :] == z[:, None]) & (j[None, :] < j[:, None])
        )
        before = tl.sum(tl.where(earlier, w[None, :], 0.0), 1)
        share = setting(settings, row, TOP_P)
        enough = tl.where(share < 1, share * tl.sum(w, 0), float("inf"))
        kept = (before < enough) | (before == 0)
        w = tl.where(kept & (w >= setting(settings, row, MIN_P)), w, 0.0)
        running = tl.sum(tl.where(j[None, :] <= j[:, None], w[None, :], 0.0), 1)
        target = setting(settings, row, U) * tl.max(running, 0)
        one = tl.min(tl.where((running > target) & (w > 0), id_, 0x7FFFFFFF), 0)
        found = tl.minimum(one, tl.max(tl.where(w > 0, id_, 0), 0))
    if kind != GENERAL:
        tl.store(out + row, found)


def draw_short(
    logits: Tensor, settings: Tensor, top_k: int, out: Tensor, *, pdl: bool = False
) -> Peaks:
    """Write the ids of rows that are SHORT or GREEDY to `out` int32 [S]; the peaks of all rows.

    top_k: the largest of these rows, at most `most_top_k`.
    """
    rows, vocab = logits.shape
    chunk = chunk_of(vocab)
    chunks, room, few = triton.cdiv(vocab, chunk), _room(top_k, vocab), power_of_two(top_k)
    padded = power_of_two(chunks)
    values = logits.new_empty((rows, chunks, room))
    ids = values.new_empty(values.shape, dtype=torch.int32)
    tops = logits.new_empty((rows, chunks))
    best, counts = tops.new_empty((2, rows, chunks), dtype=torch.int32)
    few_values = logits.new_empty((rows, few))
    few_ids = few_values.new_empty((rows, few), dtype=torch.int32)
    how = {"ROOM": room, "GUESSES": _GUESSES, **dependent(pdl)}
    _candidates[(rows, chunks)](
        logits, settings, tops, best, values, ids, counts, logits.stride(0), vocab, chunks,
        CHUNK=chunk, num_warps=8, **how,
    )  # fmt: skip
    _decide[(rows,)](
        settings, tops, best, values, ids, counts, few_values, few_ids, out, chunks,
        CP=padded, FEW=few, num_warps=16 if padded * room > 4096 else 8, **how,
    )  # fmt: skip
    return Peaks(tops, best)
