"""Convolutions and recurrences over the rows of each sequence: the reference's half of
`Recurrences`.

h_t is made of h_{t-1} as it was rounded: a form that takes many rows at once rounds otherwise
wherever a step ends between them. So only that product and sum go row by row; whatever else a
recurrence consists of is computed for a block of rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from rbee_worker.ops.reference.experts import activate

BLOCK = 64  # rows whose states are in memory at once


def linear_scan(
    x: Tensor, decay: Tensor, state: Tensor, slots: Tensor, starts: Sequence[int]
) -> Tensor:
    """h_t = decay_t * h_{t-1} + x_t, one row after another: float32 [N, width].

    x, decay: float32 [N, width]; state: float32 [slots, width], h before the first row of each
    sequence, and after its last one when this returns; slots: int64 [B]; starts: the first row of
    each sequence, and the end.

    Sequences take their steps together, each number by a product and a sum rounded to float32 each,
    so a row's result is the same whatever its chunk and its neighbours are.
    """
    counts = [end - start for start, end in pairwise(starts)]
    order = sorted(range(len(counts)), key=lambda b: -counts[b])  # those that go on come first
    picked = torch.tensor(order, device=x.device)
    first = torch.tensor([starts[b] for b in order], device=x.device)
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


def causal_conv(
    x: Tensor, taps: Tensor, bias: Tensor | None, state: Tensor, slots: Tensor, starts: Tensor
) -> Tensor:
    """See `Recurrences.causal_conv`, without its activation: float32 [N, width].

    x: float32 [N, width]; taps [K, width]; bias [width]; state: float32 [slots, K - 1, width];
    slots: int64 [B]; starts: int64 [B + 1].
    """
    kept, sequences = len(taps) - 1, len(slots)
    counts = starts.diff()
    # Every sequence's rows with the kept ones before them, one after another.
    begins = starts[:-1] + kept * torch.arange(sequences, device=x.device)
    before = torch.arange(kept, device=x.device)
    at = torch.arange(len(x), device=x.device)
    at = at + kept * torch.arange(1, sequences + 1, device=x.device).repeat_interleave(counts)
    line = x.new_empty(len(x) + kept * sequences, x.shape[1])
    line[begins[:, None] + before] = state[slots]
    line[at] = x
    y = taps[0] * line[at - kept]
    for k in range(1, len(taps)):
        y = y + taps[k] * line[at - kept + k]
    state[slots] = line[(begins + counts)[:, None] + before]
    return y if bias is None else y + bias


def selective_scan(
    x: Tensor,
    dt: Tensor,
    b: Tensor,
    c: Tensor,
    gate: Tensor,
    rates: Tensor,
    skip: Tensor,
    state: Tensor,
    slots: Tensor,
    starts: Sequence[int],
) -> Tensor:
    """See `Recurrences.selective_scan`: float32 [N, width].

    All but slots and starts are float32: x, dt, gate [N, width], b, c [N, states], rates
    [states, width], skip [width], state [slots, states, width].
    """
    step, kept, out = softplus(dt), state.flatten(1), torch.empty_like(x)
    for first in range(0, len(x), BLOCK):
        rows = slice(first, first + BLOCK)
        decay = torch.exp(step[rows, None] * rates)  # [rows, states, width]
        inflow = (step[rows] * x[rows])[:, None] * b[rows, :, None]
        inside, cut = within(starts, first, min(first + BLOCK, len(x)))
        h = linear_scan(inflow.flatten(1), decay.flatten(1), kept, slots[inside], cut)
        out[rows] = (h.view(inflow.shape) * c[rows, :, None]).sum(1)
    return (out + skip * x) * activate(gate, "silu")


def within(starts: Sequence[int], first: int, end: int) -> tuple[list[int], list[int]]:
    """Which sequences have rows among first .. end, and where those start, counted from `first`;
    then their end."""
    inside = [b for b, (s, e) in enumerate(pairwise(starts)) if s < end and e > first and s < e]
    return inside, [*(max(starts[b] - first, 0) for b in inside), end - first]


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), composed as `activate` is and for the same reason."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))
