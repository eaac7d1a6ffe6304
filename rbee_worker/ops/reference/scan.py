"""Convolutions and recurrences over the rows of each sequence: the reference for `Recurrences`.

Each h_t is computed from the rounded h_{t-1}: a form that computes many rows at once rounds
differently when a step ends between them. So that product and sum are computed row by row, and
everything else for a block of rows at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from rbee_worker.ops.cells import CELL, scan_shape

BLOCK = 64  # most rows whose states are in memory at once
NUMBERS = 1 << 23  # most numbers of such states, unless one row has more


def linear_scan(
    x: Tensor, decay: Tensor, state: Tensor, slots: Tensor, starts: Sequence[int]
) -> Tensor:
    """h_t = decay_t * h_{t-1} + x_t, one row after another: float32 [N, width].

    x, decay: float32 [N, width]; state: float32 [slots, width], h before the first row of each
    sequence, replaced with h after its last one; slots: int64 [B]; starts: the first row of each
    sequence, then the end.

    Sequences advance together. For each number, a product and a sum are each rounded to float32, so
    a row's result does not depend on its chunk or its neighbours.
    """
    counts = [end - start for start, end in pairwise(starts)]
    order = sorted(range(len(counts)), key=lambda b: -counts[b])  # longest first
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
    # The rows of each sequence, preceded by those of its state.
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
    step: Tensor,
    b: Tensor,
    c: Tensor,
    rates: Tensor,
    h: Tensor,
    starts: Sequence[int],
) -> Tensor:
    """The sums over states of `Recurrences.selective_scan`, and of `ssd`: float32 [N, width].

    float32: x [N, width], step [N, heads] (after its softplus), b, c [N, groups, states], rates
    [states or 1, heads], h [B, states, width], replaced with h after the last row of each sequence.
    Heads are equal parts of the width, groups equal parts of the heads; starts: see `linear_scan`.
    """
    kept, out = h.view(len(h), -1), torch.empty_like(x)
    (states, width), heads, groups = h.shape[1:], step.shape[1], b.shape[1]
    columns = width // heads
    block = max(1, min(BLOCK, NUMBERS // (states * width)))
    for first in range(0, len(x), block):
        rows = slice(first, first + block)
        decay = torch.exp(step[rows, None] * rates).repeat_interleave(columns, 2)
        decay = decay.expand(-1, states, -1)  # [rows, states, width]
        given = step[rows].repeat_interleave(columns, 1) * x[rows]
        inflow = _by_group(given, groups) * b[rows].swapaxes(1, 2)[..., None]
        inside, cut = within(starts, first, min(first + block, len(x)))
        those = torch.tensor(inside, device=x.device)
        passed = linear_scan(inflow.flatten(1), decay.flatten(1), kept, those, cut)
        passed = passed.view(inflow.shape)  # [rows, states, groups, width of a group]
        out[rows] = (passed * c[rows].swapaxes(1, 2)[..., None]).sum(1).flatten(1)
    return out


def out_of_cells(values: Tensor, columns: int, heads: int = 1) -> Tensor:
    """[.., heads * cells, states, CELL], where no cell has columns of two heads, as
    [.., states, heads * columns]."""
    *before, _, states, _ = values.shape
    apart = values.reshape(*before, heads, -1, states, CELL).movedim(-2, -4)
    whole = apart.flatten(-2)  # [.., states, heads, columns of whole cells]
    return whole[..., :columns].flatten(-2).contiguous()


def into_cells(values: Tensor, heads: int = 1) -> Tensor:
    """The inverse of `out_of_cells`; columns beyond those of a head are zero."""
    *before, states, width = values.shape
    cells, _, _ = scan_shape(states, width // heads)
    columns = values.reshape(*before, states, heads, -1)
    padded = F.pad(columns, (0, cells * CELL - columns.shape[-1]))
    apart = padded.view(*before, states, heads, cells, CELL).movedim(-4, -2)
    return apart.reshape(*before, heads * cells, states, CELL).contiguous()


def _by_group(x: Tensor, groups: int) -> Tensor:
    """x [N, width] as [N, 1, groups, width of a group]"""
    return x.view(len(x), 1, groups, x.shape[1] // groups)


def within(starts: Sequence[int], first: int, end: int) -> tuple[list[int], list[int]]:
    """The sequences that have rows in first .. end, and where those rows start, counted from
    `first`; then their end."""
    inside = [b for b, (s, e) in enumerate(pairwise(starts)) if s < end and e > first and s < e]
    return inside, [*(max(starts[b] - first, 0) for b in inside), end - first]


def softplus(x: Tensor) -> Tensor:
    """log(1 + e^x), composed like `activate` and for the same reason."""
    return x.clamp(min=0) + torch.log1p(torch.exp(-x.abs()))
