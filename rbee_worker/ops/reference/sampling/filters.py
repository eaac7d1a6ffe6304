"""Temperature, top_k, top_p, min_p and the draw, with parameters per row.

Definition (the tests' oracle): sort a row's tokens by logit, largest first, ties by id. Keep the
first top_k; of these, the fewest whose probabilities (softmax of logit / temperature) reach top_p;
of these, those with at least min_p times the largest probability. The draw goes through the kept
tokens in id order with a float64 running sum (in a whole row: block by block, then inside one
block) and takes the first token whose sum exceeds u times the total.

All three filters keep a prefix of the sorted row, so only the number of kept tokens is needed: not
a sort of the vocabulary, just its largest values. Work on arrays as wide as the vocabulary is done
on the device; work on narrow ones (a shortlist, sums of blocks) on the host, in one order, row by
row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.ops.reference.sampling.rows import (
    BLOCK,
    Floats,
    descending,
    first_above,
    largest,
    masses,
    portions,
    running_sum,
    take,
)
from rbee_worker.ops.sampling import DrawColumns, Ints

# A row is tried with this many of its largest logits first, then with all: most nuclei are small.
# Which of the two decides a row depends on that row only.
REACH = (64, 1024)


def draw(z: Tensor, params: DrawColumns) -> Ints:
    """One id per row [R]; -1 for a row with NaN, or with nothing above -inf. z: [R, V] f32."""
    params = params._replace(top_k=np.where(params.top_k < z.shape[1], params.top_k, 0))
    sorts = (params.top_p < 1) | (params.top_k > 0)
    if not sorts.any():
        return _whole(z, params)
    if sorts.all():
        return _sorted(z, params)
    ids = np.empty(len(sorts), dtype=np.int64)
    for members, decide in ((~sorts, _whole), (sorts, _sorted)):
        rows = np.flatnonzero(members)
        ids[rows] = decide(_rows(z, rows), params.at(rows))
    return ids


def _rows(z: Tensor, rows: Ints) -> Tensor:
    return z if len(rows) == z.shape[0] else z[torch.from_numpy(rows).to(z.device)]


def _whole(z: Tensor, params: DrawColumns) -> Ints:
    """Rows without top_k and top_p: find the block in the running sum, then the token in it."""
    vocab = z.shape[1]
    top, parts = masses(z, params.scale, params.min_p if params.min_p.any() else None)
    sums = running_sum(parts)
    target = params.u * sums[:, -1]
    block = np.minimum(first_above(sums, target), sums.shape[1] - 1)
    before = np.where(block > 0, take(sums, block - 1), 0.0)
    columns = block[:, None] * BLOCK + np.arange(BLOCK)
    inside = columns < vocab
    columns = np.minimum(columns, vocab - 1)
    w = _weights(_narrow(z, columns), top, params.scale)
    w *= inside & (w >= params.min_p[:, None])
    # A block's sum may differ in the last bit from its running sum: then take its last token.
    last = BLOCK - 1 - (w[:, ::-1] > 0).argmax(axis=1)
    w[:, 0] += before
    place = first_above(running_sum(w), target)
    ids = take(columns, np.where(place < BLOCK, place, last))
    return np.where(top > -np.inf, ids, -1)  # also False for NaN


def _narrow(z: Tensor, columns: Ints) -> NDArray[np.float32]:
    part: NDArray[np.float32] = z.gather(1, torch.from_numpy(columns).to(z.device)).cpu().numpy()
    return part


def _sorted(z: Tensor, params: DrawColumns) -> Ints:
    """Rows with top_k or top_p: each is decided from as few of its largest logits as suffice."""
    vocab = z.shape[1]
    total = np.full(len(params.u), np.inf)
    whole = np.flatnonzero(params.top_k == 0)  # top_p needs the sum of all weights
    if whole.size:
        _, parts = masses(_rows(z, whole), params.scale[whole])
        total[whole] = running_sum(parts)[:, -1]
    ids = np.full(len(total), -1, dtype=np.int64)
    need = params.top_k.copy()  # a lower bound of the largest logits needed
    for reach in (n for n in REACH if n < vocab):
        rows = np.flatnonzero((ids < 0) & (need <= reach))
        if rows.size:
            values, places = (t.cpu().numpy() for t in largest(_rows(z, rows), reach + 1))
            ids[rows], need[rows] = _among(values, places, params.at(rows), total[rows], vocab)
    rest = np.flatnonzero((ids < 0) & (need <= vocab))
    for part in portions(len(rest), vocab, z.device):
        rows = rest[part]
        ids[rows] = _among_all(_rows(z, rows), params.at(rows))
    return ids


def _among(
    values: NDArray[np.float32], ids: Ints, params: DrawColumns, total: Floats, vocab: int
) -> tuple[Ints, Ints]:
    """Draw from only the n + 1 largest logits, descending, and their ids, both [R, n + 1].

    Returns ids [R], -1 if these do not suffice, and a lower bound of how many would; more than the
    vocabulary if no number does. `total` [R] is the weight of the whole row.
    """
    n, top = values.shape[1] - 1, values[:, 0]
    w = _weights(values[:, :n], top, params.scale)
    kept, sums = _kept(w, params, total, vocab)
    sure = kept <= n
    kept = np.clip(kept, 1, n)
    threshold = take(values, kept - 1)
    sure &= threshold != values[:, n]  # a tie across the border: lower ids may be beyond it
    order = ids[:, :n].argsort(axis=1)
    place = _walk(take(values, order), take(w, order), threshold, kept, params.u)
    found = take(ids, take(order, place))
    dead = ~(top > -np.inf)  # also True for NaN
    # Tokens beyond these weigh at most as much as the last one here.
    lack = (params.top_p * total - sums[:, -1]) / np.maximum(w[:, -1], 1e-300)
    need = np.where(
        (params.top_k == 0) & (params.min_p == 0), n + np.clip(lack, 1, vocab - n), n + 1
    )
    return np.where(sure & ~dead, found, -1), np.where(dead, vocab + 1, need).astype(np.int64)


def _among_all(z: Tensor, params: DrawColumns) -> Ints:
    """Draw from all logits: ids [R], -1 for a row without a result."""
    values = descending(z).cpu().numpy()
    top = values[:, 0]
    w = _weights(values, top, params.scale)
    kept, _ = _kept(w, params, np.zeros(len(top)), z.shape[1])
    kept = np.clip(kept, 1, z.shape[1])  # for a row with NaN the count is 0
    logits = z.cpu().numpy()
    w = _weights(logits, top, params.scale)
    found = _walk(logits, w, take(values, kept - 1), kept, params.u)
    return np.where(top > -np.inf, found, -1)


def _weights(z: NDArray[np.float32], top: NDArray[Any], scale: Floats) -> Floats:
    """`rows.weights` on the host: exp((z - top) * scale); +inf against +inf gives 1."""
    x = z.astype(np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf
        x -= top[:, None]
    if np.isposinf(top).any():
        x[np.isnan(x)] = 0.0
    x *= scale[:, None]
    return np.exp(x, out=x)


def _kept(w: Floats, params: DrawColumns, total: Floats, vocab: int) -> tuple[Ints, Floats]:
    """The number of kept tokens of each row [R]; more than the columns of w [R, n] = not known.

    `w`: the weights of the n largest logits, descending. Also returns their running sum [R, n].
    """
    n = w.shape[1]
    sums = running_sum(w)
    by_k = np.where(params.top_k > 0, params.top_k, vocab)
    mass = np.where(by_k <= n, take(sums, np.minimum(by_k, n) - 1), total)
    by_p = first_above(sums, params.top_p * mass, or_at=True) + 1
    kept = np.minimum(by_k, np.where(params.top_p < 1, by_p, vocab))
    if params.min_p.any():
        by_min = (w >= params.min_p[:, None]).sum(axis=1)
        kept = np.minimum(kept, np.where(by_min < n, by_min, vocab))
    return kept, sums


def _walk(
    z: NDArray[np.float32], w: Floats, threshold: NDArray[np.float32], kept: Ints, u: Floats
) -> Ints:
    """The column where the running sum of the kept weights exceeds u times their total [R].

    Columns are in id order; of those equal to the threshold [R], the first are kept. `w` is
    overwritten.
    """
    keep = z >= threshold[:, None]
    if (keep.sum(axis=1) > kept).any():
        tied = z == threshold[:, None]
        room = kept - keep.sum(axis=1) + tied.sum(axis=1)
        keep &= ~tied | (tied.cumsum(axis=1) <= room[:, None])
    w *= keep
    sums = running_sum(w)
    place: Ints = np.minimum(first_above(sums, u * sums[:, -1]), z.shape[1] - 1)
    return place
