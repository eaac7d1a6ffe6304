"""What log-probabilities need of a row: largest logit, sum of weights, the most likely tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from rbee_worker.ops.cuda.kernels.launch import power_of_two
from rbee_worker.ops.cuda.kernels.sampling.narrow import limits
from rbee_worker.ops.cuda.kernels.sampling.peaks import peaks
from rbee_worker.ops.cuda.kernels.sampling.rows import chunk_of, kept_by, top_of, weight


class Scores(NamedTuple):
    """Of each row: the logit of the given id float32 [S], the largest logit float32 [S], the sum of
    the weights exp(logit - largest) float64 [S], and the most likely tokens in the order of ids:
    ids int32 and logits float32 [S, most]."""

    chosen: Tensor
    peak: Tensor
    total: Tensor
    ids: Tensor
    logits: Tensor


@triton.jit
def _totals(z, tops, sums, stride, vocab, chunks, CP: tl.constexpr, CHUNK: tl.constexpr):
    """The sum of the weights of each chunk; nan if the row has a nan in it."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    top = top_of(tops, row, chunks, CP)
    id_ = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(z + row * stride + id_, mask=id_ < vocab, other=float("-inf"))
    w = tl.where(id_ < vocab, weight(x, top, 1.0), 0.0)
    tl.store(sums + row * chunks + chunk, tl.sum(w, 0))


@triton.jit
def _collect(
    z, tops, sums, given, limit, chosen, peak, total, ids, logits, stride, vocab, chunks, most,
    CP: tl.constexpr, LIMITED: tl.constexpr, CHUNK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, CP)
    tl.store(peak + row, top_of(tops, row, chunks, CP))
    tl.store(total + row, tl.sum(tl.load(sums + row * chunks + c, mask=c < chunks, other=0.0), 0))
    tl.store(chosen + row, tl.load(z + row * stride + tl.load(given + row)))
    if LIMITED:
        key, last = tl.load(limit + row * 2), tl.load(limit + row * 2 + 1)
        place = row * most
        for start in range(0, vocab, CHUNK):
            id_ = start + tl.arange(0, CHUNK)
            x = tl.load(z + row * stride + id_, mask=id_ < vocab, other=float("-inf"))
            keep = (kept_by(x, id_, key, last) & (id_ < vocab)).to(tl.int32)
            at = place + tl.cumsum(keep, 0) - 1
            keep = (keep > 0) & (at < (row + 1) * most)
            tl.store(ids + at, id_, mask=keep)
            tl.store(logits + at, x, mask=keep)
            place += tl.sum(keep.to(tl.int32), 0)


def scores(logits: Tensor, given: Tensor, settings: Tensor | None, most: int) -> Scores:
    """Of logits float32 [S, vocab], S at least 1. given: int32 [S]; settings: a row's top_k is how
    many of its most likely tokens are wanted, at most `most`; None if no row wants any. What a row
    does not have in `ids` is 0."""
    rows, vocab = logits.shape
    found = peaks(logits)
    chunks = found.tops.shape[1]
    sums = logits.new_empty((rows, chunks), dtype=torch.float64)
    out = Scores(
        logits.new_empty(rows),
        logits.new_empty(rows),
        logits.new_empty(rows, dtype=torch.float64),
        logits.new_zeros((rows, most), dtype=torch.int32),
        logits.new_zeros((rows, most)),
    )
    how = {"CP": power_of_two(chunks), "CHUNK": chunk_of(vocab), "num_warps": 8}
    _totals[(rows, chunks)](logits, found.tops, sums, logits.stride(0), vocab, chunks, **how)
    limit = None if settings is None else limits(logits, found, settings, by_count=True)
    _collect[(rows,)](
        logits, found.tops, sums, given, limit, *out, logits.stride(0), vocab, chunks, most,
        LIMITED=limit is not None, **how,
    )  # fmt: skip
    return out
