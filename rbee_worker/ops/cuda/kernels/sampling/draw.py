"""Draws: the token at which the running sum of the kept weights, in id order, exceeds u times their
total. `reference/sampling/filters.py` has the definition."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.sampling.narrow import limits
from rbee_worker.ops.cuda.kernels.sampling.peaks import best_of, peaks
from rbee_worker.ops.cuda.kernels.sampling.rows import (
    GREEDY,
    MIN_P,
    SCALE,
    U,
    chunk_of,
    kept_by,
    parameter,
    top_of,
    weight,
)


@triton.jit
def _kept(
    z, settings, limit, top, row, chunk, stride, vocab, LIMITED: tl.constexpr, CHUNK: tl.constexpr
):  # fmt: skip
    """The weights of a chunk, 0 where a token is not kept, and its ids."""
    id_ = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(z + row * stride + id_, mask=id_ < vocab, other=float("-inf"))
    w = weight(x, top, parameter(settings, row, SCALE))
    keep = (id_ < vocab) & (w >= parameter(settings, row, MIN_P))
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
    if parameter(settings, row, GREEDY) == 0:
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
    if (parameter(settings, row, GREEDY) == 0) & (best >= 0):
        c = tl.arange(0, CP)
        part = tl.load(sums + row * chunks + c, mask=c < chunks, other=0.0)
        running = tl.cumsum(part, 0)
        target = parameter(settings, row, U) * tl.max(running, 0)
        # Rounding may leave the sum at the target: then it is the last chunk with any weight.
        last = tl.max(tl.where(part > 0, c, 0), 0)
        chunk = tl.minimum(tl.min(tl.where((running > target) & (part > 0), c, CP), 0), last)
        before = tl.max(tl.where(c < chunk, running, 0.0), 0)
        top = top_of(tops, row, chunks, CP)
        w, id_ = _kept(z, settings, limit, top, row, chunk, stride, vocab, LIMITED, CHUNK)
        inside = before + tl.cumsum(w, 0)
        first = tl.min(tl.where((inside > target) & (w > 0), id_, 0x7FFFFFFF), 0)
        best = tl.minimum(first, tl.max(tl.where(w > 0, id_, 0), 0))
    tl.store(out + row, best)


def draw(
    logits: Tensor,
    settings: Tensor,
    *,
    top_k: bool,
    top_p: bool,
    pdl: bool = False,
) -> Tensor:
    """One id per row, int32 [S] on the device; -1 for a row with nan or nothing above -inf.

    logits: float32 [S, vocab]; settings: float64 [S, COLUMNS] of `rows.py`, where top_k is 0 or
    below vocab; a row that is GREEDY gets its most likely id. top_k, top_p: whether any row has
    them.
    """
    rows, vocab = logits.shape
    out = torch.empty(rows, dtype=torch.int32, device=logits.device)
    if not rows:
        return out
    found = peaks(logits, pdl=pdl)
    limit = None
    if top_k:
        limit = limits(logits, found, settings, by_count=True, pdl=pdl)
    if top_p:
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
