"""Temperature, top_k, top_p, min_p and the draw, for rows with parameters of their own.

Definition (the tests' oracle): sort a row's tokens by logit, largest first, ties by id; keep the
first top_k; of these the fewest whose probabilities (softmax of logit / temperature) reach top_p;
of these the ones with at least min_p times the largest probability. All three keep a prefix of the
sorted row, so all that is needed is how many tokens are kept: no sort of the vocabulary, only its
largest values. The draw walks the kept tokens in id order with a float64 running sum and takes
the first whose sum exceeds u times the total.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.engine.rows import descending, largest, pick, running_sum, weights

# A row is tried with this many of its largest logits, then with all: a nucleus is mostly small.
# Which one decides a row depends on that row alone.
REACH = (64, 1024)


class Cuts(NamedTuple):
    """Parameters of R rows, each [R]; temperature > 0."""

    temperature: NDArray[np.float64]
    top_k: NDArray[np.int64]  # 0 = off
    top_p: NDArray[np.float64]  # 1 = off
    min_p: NDArray[np.float64]  # 0 = off
    u: NDArray[np.float64]  # the uniform number of the draw

    def at(self, rows: slice) -> Cuts:
        return Cuts(
            self.temperature[rows],
            self.top_k[rows],
            self.top_p[rows],
            self.min_p[rows],
            self.u[rows],
        )


class _Rows(NamedTuple):
    """`Cuts` on the device, with the logits they belong to."""

    z: Tensor  # [R, V]
    top: Tensor  # [R] float64: each row's maximum
    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor
    u: Tensor

    def at(self, rows: Tensor) -> _Rows:
        return _Rows(*(column[rows] for column in self))


def draw(z: Tensor, cuts: Cuts) -> Tensor:
    """One id a row [R] int64; -1 where the row holds NaN or nothing above -inf. z: [R, V] f32."""
    top = z.amax(dim=1).double()
    alive = top > -torch.inf  # False for NaN
    ids = torch.full((z.shape[0],), -1, dtype=torch.int64, device=z.device)
    cuts = cuts._replace(top_k=np.where(cuts.top_k < z.shape[1], cuts.top_k, 0))
    rows = _Rows(z, top, *(torch.from_numpy(column).to(z.device) for column in cuts))
    sorts = (rows.top_p < 1) | (rows.top_k > 0)
    for members, decide in ((alive & ~sorts, _unsorted), (alive & sorts, _sorted)):
        if bool(members.all()):
            return decide(rows)
        if bool(members.any()):
            ids[members] = decide(rows.at(members))
    return ids


def _unsorted(rows: _Rows) -> Tensor:
    """Rows without top_k and top_p."""
    w = weights(rows.z, rows.top, rows.temperature)
    if bool((rows.min_p > 0).any()):
        w.masked_fill_(w < rows.min_p[:, None], 0.0)
    return pick(w, rows.u)


def _sorted(rows: _Rows) -> Tensor:
    """Rows with top_k or top_p: each is decided by as few of its largest logits as suffice."""
    count, vocab = rows.z.shape
    total = torch.full_like(rows.top, torch.inf)
    open_ended = rows.top_k == 0  # top_p needs the sum of all weights
    if bool(open_ended.any()):
        part = rows if bool(open_ended.all()) else rows.at(open_ended)
        w = weights(part.z, part.top, part.temperature)
        total[open_ended] = running_sum(w)[:, -1]
    ids = torch.full((count,), -1, dtype=torch.int64, device=rows.z.device)
    waiting = torch.ones(count, dtype=torch.bool, device=rows.z.device)
    for reach in (*(n for n in REACH if n < vocab), vocab):
        now = waiting & (rows.top_k <= reach) if reach < vocab else waiting
        where = now.nonzero()[:, 0]
        if where.shape[0] == 0:
            continue
        part = rows if where.shape[0] == count else rows.at(where)
        found, sure = _within(part, total[where], reach)
        ids[where[sure]] = found[sure]
        waiting[where[sure]] = False
    return ids


def _within(rows: _Rows, total: Tensor, reach: int) -> tuple[Tensor, Tensor]:
    """Draw among the `reach` largest logits; also whether they were enough to know (bool [R])."""
    vocab = rows.z.shape[1]
    if reach == vocab:
        values, ids, z = descending(rows.z), None, rows.z
    else:
        values, ids = largest(rows.z, reach + 1)
        ids = ids[:, :reach].sort(dim=1).values  # id order
        z = rows.z.gather(1, ids)
    kept = _kept(rows, total, values[:, :reach])
    sure = kept <= reach
    kept = kept.clamp(max=reach)
    threshold = values.gather(1, kept[:, None] - 1)
    if reach < vocab:  # a tie across the border: which ids come first is not known here
        sure &= threshold[:, 0] != values[:, reach]
    ties = kept[:, None] - (values[:, :reach] > threshold).sum(dim=1, keepdim=True)
    tied = z == threshold
    keep = (z > threshold) | (tied & (tied.cumsum(dim=1) <= ties))
    w = weights(z, rows.top, rows.temperature).masked_fill_(~keep, 0.0)
    place = pick(w, rows.u)
    return (place if ids is None else ids.gather(1, place[:, None])[:, 0]), sure


def _kept(rows: _Rows, total: Tensor, values: Tensor) -> Tensor:
    """How many tokens of each row are kept [R]; more than `values` [R, n] holds = not known."""
    vocab, n = rows.z.shape[1], values.shape[1]
    w = weights(values, rows.top, rows.temperature)
    sums = running_sum(w)
    by_k = torch.where(rows.top_k > 0, rows.top_k, vocab)
    at_k = sums.gather(1, by_k.clamp(max=n)[:, None] - 1)[:, 0]
    mass = torch.where(by_k <= n, at_k, total)
    by_p = (sums < (rows.top_p * mass)[:, None]).sum(dim=1) + 1
    by_p = torch.where(rows.top_p < 1, by_p, vocab)
    by_min = (w >= rows.min_p[:, None]).sum(dim=1)
    by_min = torch.where(by_min < n, by_min, vocab)
    return torch.minimum(torch.minimum(by_k, by_p), by_min)
