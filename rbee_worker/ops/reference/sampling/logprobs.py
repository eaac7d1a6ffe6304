"""Log-probabilities: the log-softmax of the raw logits, before bias, penalties and temperature."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops.reference.sampling.rows import largest, masses, running_sum
from rbee_worker.types import TokenLogprob


def score(logits: Tensor, ids: Sequence[int], tops: Sequence[int]) -> list[TokenLogprob]:
    """For each row of `logits` [R, V] f32: the log-probability of ids[i] and of the tops[i] most
    likely tokens (most likely first, ties: lower id first).

    Computed in float64; a row's values do not depend on the other rows. A logit of -inf scores
    -inf; if some are +inf, these share all of the probability; a row with NaN scores NaN.
    """
    scale = np.ones(logits.shape[0])
    peaks, parts = masses(logits, scale)
    totals = running_sum(parts)[:, -1].tolist()
    places = torch.tensor(ids, device=logits.device)[:, None]
    chosen = logits.gather(1, places)[:, 0].tolist()
    best = _likeliest(logits, list(tops))
    result = []
    for i, (peak, total) in enumerate(zip(peaks.tolist(), totals, strict=True)):
        pairs = tuple((token, _log(value, peak, total)) for token, value in best[i])
        result.append(TokenLogprob(id=ids[i], logprob=_log(chosen[i], peak, total), top=pairs))
    return result


def _log(value: float, peak: float, total: float) -> float:
    relative = 0.0 if value == peak == math.inf else value - peak
    return relative - math.log(total)


def _likeliest(z: Tensor, tops: list[int]) -> list[list[tuple[int, float]]]:
    """(id, logit) of the tops[i] largest logits of each row, in order."""
    vocab = z.shape[1]
    reach = min(max(tops) + 1, vocab)  # one more, to detect a tie across the border
    if max(tops) == 0:
        return [[] for _ in tops]
    values, ids = (t.tolist() for t in largest(z, reach))
    result = []
    for row, top in enumerate(tops):
        n = min(top, vocab)
        pairs = list(zip(ids[row], values[row], strict=True))
        if 0 < n < reach and values[row][n - 1] == values[row][n]:
            edge = values[row][n]
            above = [pair for pair in pairs if pair[1] > edge]
            equal = (z[row] == edge).nonzero()[: n - len(above), 0].tolist()
            pairs = above + [(token, edge) for token in equal]
        result.append(sorted(pairs[:n], key=lambda pair: (-pair[1], pair[0])))
    return result
