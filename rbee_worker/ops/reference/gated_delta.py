"""Gated delta rules of the reference backend: rows one after another, as in `scan.py`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor

from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.reference.experts import activate
from rbee_worker.ops.reference.recurrence import kept_of
from rbee_worker.ops.reference.scan import into_cells, out_of_cells, softplus
from rbee_worker.state.specs import StateRef

FLOOR = 1e-6  # added to a sum of squares


class GatedDeltaOps(Ops):
    """The part of `ReferenceOps` for gated delta rules."""

    def gated_delta(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        dt: Tensor,
        beta: Tensor,
        bias: Tensor,
        rates: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        groups: int,
    ) -> Tensor:
        kept, slots = kept_of(where, name, batch)
        heads, count = dt.shape[1], len(v)
        columns = v.shape[1] // heads
        h = out_of_cells(kept[slots], columns, heads)
        states = h.shape[1]
        whole = h.view(len(h), states, heads, columns)
        y = delta_scan(
            _unit(q, groups, heads) * states**-0.5,
            _unit(k, groups, heads),
            v.float().view(count, heads, columns),
            torch.exp(rates * softplus(dt.float() + bias)),
            activate(beta.float(), "sigmoid"),
            whole,
            batch.seq_starts_host,
        )
        kept[slots] = into_cells(whole.view(h.shape), heads)
        return y.flatten(1).to(v.dtype)


def _unit(x: Tensor, groups: int, heads: int) -> Tensor:
    """x [N, groups * states] divided by the length of each group: [N, states, heads, 1]."""
    parts = x.float().view(len(x), groups, -1)
    unit = parts * torch.rsqrt((parts * parts).sum(-1, keepdim=True) + FLOOR)
    return unit.repeat_interleave(heads // groups, 1).swapaxes(1, 2)[..., None].contiguous()


def delta_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    beta: Tensor,
    h: Tensor,
    starts: Sequence[int],
) -> Tensor:
    """y of each row, [N, heads, columns]. float32: q, k [N, states, heads, 1], v [N, heads,
    columns], decay, beta [N, heads], h [B, states, heads, columns], replaced with h after the last
    row of each sequence; starts: see `scan.linear_scan`. Sequences advance together."""
    counts = [end - start for start, end in pairwise(starts)]
    order = sorted(range(len(counts)), key=lambda b: -counts[b])  # longest first
    picked = torch.tensor(order, device=v.device)
    first = torch.tensor([starts[b] for b in order], device=v.device)
    now, out, live = h[picked], torch.empty_like(v), len(order)
    for t in range(max(counts, default=0)):
        while counts[order[live - 1]] <= t:
            live -= 1
        rows = first[:live] + t
        g = decay[rows][:, None, :, None] * now[:live]
        delta = beta[rows][..., None] * (v[rows] - (g * k[rows]).sum(1))
        now[:live] = g + k[rows] * delta[:, None]
        out[rows] = (now[:live] * q[rows]).sum(1)
    h[picked] = now
    return out
