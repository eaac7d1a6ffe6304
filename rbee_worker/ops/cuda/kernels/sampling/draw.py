"""Draws: the token at which the running sum of the kept weights, in id order, exceeds u times their
total. `reference/sampling/filters.py` has the definition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import triton
import triton.language as tl
from numpy.typing import NDArray
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.sampling.narrow import limits
from rbee_worker.ops.cuda.kernels.sampling.peaks import best_of, greedy, peaks
from rbee_worker.ops.cuda.kernels.sampling.rows import (
    COLUMNS,
    GENERAL,
    GREEDY,
    KIND,
    MIN_P,
    SCALE,
    SHORT,
    U,
    chunk_of,
    kept_by,
    setting,
    top_of,
    weight,
)
from rbee_worker.ops.cuda.kernels.sampling.shortlist import draw_short, most_top_k
from rbee_worker.ops.sampling import DrawParams


@triton.jit
def _kept(
    z, settings, limit, top, row, chunk, stride, vocab, LIMITED: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """The weights of a chunk, 0 where a token is not kept, and its ids."""
    id_ = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(z + row * stride + id_, mask=id_ < vocab, other=float("-inf"))
    w = weight(x, top, setting(settings, row, SCALE))
    keep = (id_ < vocab) & (w >= setting(settings, row, MIN_P))
    if LIMITED:
        keep = keep & kept_by(x, id_, tl.load(limit + row * 2), tl.load(limit + row * 2 + 1))
    return tl.where(keep, w, 0.0), id_


@triton.jit
def _sums(
    z, tops, settings, limit, sums, stride, vocab, chunks, CP: tl.constexpr, LIMITED: tl.constexpr,
    CHUNK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The sum of the kept weights of each chunk."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if setting(settings, row, KIND) == GENERAL:
        top = top_of(tops, row, chunks, CP)
        w, _ = _kept(z, settings, limit, top, row, chunk, stride, vocab, LIMITED, CHUNK)
        tl.store(sums + row * chunks + chunk, tl.sum(w, 0))


@triton.jit
def _pick(
    z, tops, ids, settings, limit, sums, out, stride, vocab, chunks, CP: tl.constexpr,
    LIMITED: tl.constexpr, CHUNK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The chunk in which the running sum exceeds the target, then the token in it."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    best = best_of(tops, ids, row, chunks, CP)
    if (setting(settings, row, KIND) == GENERAL) & (best >= 0):
        c = tl.arange(0, CP)
        part = tl.load(sums + row * chunks + c, mask=c < chunks, other=0.0)
        running = tl.cumsum(part, 0)
        target = setting(settings, row, U) * tl.max(running, 0)
        # Rounding may leave the sum at the target: then it is the last chunk with any weight.
        last = tl.max(tl.where(part > 0, c, 0), 0)
        chunk = tl.minimum(tl.min(tl.where((running > target) & (part > 0), c, CP), 0), last)
        before = tl.max(tl.where(c < chunk, running, 0.0), 0)
        top = top_of(tops, row, chunks, CP)
        w, id_ = _kept(z, settings, limit, top, row, chunk, stride, vocab, LIMITED, CHUNK)
        inside = before + tl.cumsum(w, 0)
        first = tl.min(tl.where((inside > target) & (w > 0), id_, 0x7FFFFFFF), 0)
        best = tl.minimum(first, tl.max(tl.where(w > 0, id_, 0), 0))
    if setting(settings, row, KIND) != SHORT:
        tl.store(out + row, best)


class Plan(NamedTuple):
    """What a batch of draws needs.

    settings: float64 [S, COLUMNS], see `rows.py`; short: the largest top_k of SHORT rows, or 0;
    general: whether there are GENERAL rows; top_k, top_p: whether any of these has such a limit.
    """

    settings: NDArray[np.float64]
    short: int
    general: bool
    top_k: bool
    top_p: bool


def planned(params: Sequence[DrawParams | None], vocab: int) -> Plan:
    """The plan for `Sampling.choose`."""
    rows, short, general = [], [0], []
    most = most_top_k(vocab)
    for one in params:
        if one is None:
            rows.append((1.0, 0, 1.0, 0.0, 0.0, GREEDY.value))
            continue
        top_k = one.top_k if one.top_k < vocab else 0
        is_short = 0 < top_k <= most
        kind = SHORT if is_short else GENERAL
        rows.append((one.scale, top_k, one.top_p, one.min_p, one.u, kind.value))
        if is_short:
            short.append(top_k)
        else:
            general.append(rows[-1])
    settings = np.zeros((len(rows), COLUMNS))
    if rows:
        settings[:, :6] = rows  # SCALE, TOP_K, TOP_P, MIN_P, U, KIND
    top_k, top_p = any(row[1] > 0 for row in general), any(row[2] < 1 for row in general)
    return Plan(settings, max(short), bool(general), top_k, top_p)


def draw(logits: Tensor, plan: Plan, settings: Tensor, *, pdl: bool = False) -> Tensor:
    """One id per row, int32 [S] on the device; -1 for a row with nan or nothing above -inf.

    logits: float32 [S, vocab]; settings: those of the plan, on the device.
    """
    rows, vocab = logits.shape
    if not rows or not (plan.short or plan.general):
        return greedy(logits, pdl=pdl)
    out = torch.empty(rows, dtype=torch.int32, device=logits.device)
    if plan.short:
        found = draw_short(logits, settings, plan.short, out, pdl=pdl)
    else:
        found = peaks(logits, pdl=pdl)
    if not plan.general:
        return out
    limit = None
    if plan.top_k:
        limit = limits(logits, found, settings, by_count=True, pdl=pdl)
    if plan.top_p:
        limit = limits(logits, found, settings, by_count=False, within=limit, pdl=pdl)
    chunks = found.tops.shape[1]
    sums = torch.empty((rows, chunks), dtype=torch.float64, device=logits.device)
    how = {
        "CP": power_of_two(chunks), "LIMITED": limit is not None, "CHUNK": chunk_of(vocab),
        "num_warps": 8, **dependent(pdl),
    }  # fmt: skip
    _sums[(rows, chunks)](
        logits, found.tops, settings, limit, sums, logits.stride(0), vocab, chunks, **how
    )
    _pick[(rows,)](
        logits, *found, settings, limit, sums, out, logits.stride(0), vocab, chunks, **how
    )
    return out
