"""Log-probabilities of given tokens: what `echo` with `logprobs` reports of a prompt."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rbee_worker.types import TokenLogprob


def score_rows(logits: Tensor, targets: Sequence[int], top: int) -> list[TokenLogprob]:
    """log softmax of logits [S, vocab] at targets[i], with the `top` likeliest of each row.

    Ties go to the lower id.
    """
    logprobs = torch.log_softmax(logits.float(), dim=1)
    index = torch.tensor(targets, device=logits.device)
    chosen = logprobs.gather(1, index[:, None])[:, 0].tolist()
    best = torch.sort(logprobs, dim=1, descending=True, stable=True)
    ids, values = best.indices[:, :top].tolist(), best.values[:, :top].tolist()
    return [
        TokenLogprob(id=t, logprob=c, top=tuple(zip(i, v, strict=True)))
        for t, c, i, v in zip(targets, chosen, ids, values, strict=True)
    ]
