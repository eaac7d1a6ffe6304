"""Linear recurrences over the rows of each sequence: the reference for `Ops.linear_scan`."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from rbee_worker.ops.batch import Batch


def linear_scan(x: Tensor, decay: Tensor, state: Tensor, slots: Tensor, batch: Batch) -> Tensor:
    """h_t = decay_t * h_{t-1} + x_t, one row after another: float32 [N, width].

    x, decay: float32 [N, width]; state: float32 [slots, width], h before the first row of each
    sequence, replaced with h after its last one; slots: int64 [B].

    Sequences advance together. For each number, a product and a sum are each rounded to float32, so
    a row's result does not depend on its chunk or its neighbours.
    """
    starts = batch.seq_starts_host
    counts = [end - start for start, end in pairwise(starts)]
    order = sorted(range(len(counts)), key=lambda b: -counts[b])  # longest first
    picked = torch.tensor(order, device=x.device)
    first = batch.seq_starts[:-1][picked]
    h = state[slots[picked]]
    out = torch.empty_like(x)
    live = len(order)
    for t in range(max(counts, default=0)):
        while counts[order[live - 1]] <= t:
            live -= 1
        rows = first[:live] + t
        h[:live] = decay[rows] * h[:live] + x[rows]
        out[rows] = h[:live]
    state[slots[picked]] = h
    return out
