"""Each row's most likely token."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.sampling.rows import chunk_of

_NONE = tl.constexpr(0x7FFFFFFF)


class Peaks(NamedTuple):
    """The largest logit of each chunk of a row, float32, and its lowest id, int32 (-1: the chunk
    has a nan); both [S, chunks]."""

    tops: Tensor
    ids: Tensor


@triton.jit
def write_peak(x, id_, tops, ids, at):
    """Store the peak of a chunk's logits x; what is beyond the row is -inf."""
    top = tl.max(x, 0)
    first = tl.min(tl.where(x == top, id_, _NONE), 0)
    lost = tl.max((x != x).to(tl.int32), 0)
    tl.store(tops + at, top)
    tl.store(ids + at, tl.where(lost > 0, -1, first))


@triton.jit
def _peaks(z, tops, ids, stride, vocab, chunks, CHUNK: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    id_ = chunk * CHUNK + tl.arange(0, CHUNK)
    x = tl.load(z + row * stride + id_, mask=id_ < vocab, other=float("-inf"))
    write_peak(x, id_, tops, ids, row * chunks + chunk)


@triton.jit
def best_of(tops, ids, row, chunks, CP: tl.constexpr):
    """A row's most likely id, or -1: see `Sampling.greedy`."""
    c = tl.arange(0, CP)
    top = tl.load(tops + row * chunks + c, mask=c < chunks, other=float("-inf"))
    id_ = tl.load(ids + row * chunks + c, mask=c < chunks, other=_NONE)
    most = tl.max(top, 0)
    best = tl.min(tl.where(top == most, id_, _NONE), 0)
    return tl.where((tl.min(id_, 0) < 0) | (most == float("-inf")), -1, best)


@triton.jit
def _best(tops, ids, out, chunks, CP: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    tl.store(out + row, best_of(tops, ids, row, chunks, CP))


def peaks(logits: Tensor, *, pdl: bool = False) -> Peaks:
    """Of logits float32 [S, vocab], S and vocab at least 1."""
    rows, vocab = logits.shape
    chunks = triton.cdiv(vocab, chunk_of(vocab))
    tops = torch.empty((rows, chunks), dtype=torch.float32, device=logits.device)
    ids = torch.empty((rows, chunks), dtype=torch.int32, device=logits.device)
    _peaks[(rows, chunks)](
        logits, tops, ids, logits.stride(0), vocab, chunks, CHUNK=chunk_of(vocab), num_warps=8,
        **dependent(pdl),
    )  # fmt: skip
    return Peaks(tops, ids)


def greedy(logits: Tensor, *, pdl: bool = False) -> Tensor:
    """See `Sampling.greedy`: logits float32 [S, vocab] -> ids int32 [S] on the device."""
    rows = logits.shape[0]
    out = torch.empty(rows, dtype=torch.int32, device=logits.device)
    if rows:
        found = peaks(logits, pdl=pdl)
        chunks = found.tops.shape[1]
        _best[(rows,)](*found, out, chunks, CP=power_of_two(chunks), num_warps=1, **dependent(pdl))
    return out
