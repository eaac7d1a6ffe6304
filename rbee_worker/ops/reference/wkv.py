"""RWKV's operations in torch: the reference for `Wkv`.

Recurrences go row by row, as in `scan.py` and for the same reason; sequences advance together. Sums
over a head's columns are made by halves, so that they have the same bits whatever else is computed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.reference.experts import activate
from rbee_worker.ops.reference.recurrence import kept_of
from rbee_worker.ops.reference.scan import into_cells, out_of_cells
from rbee_worker.state.specs import StateRef

LEAST = 1e-12  # length of a direction before it is one
FASTEST = -math.exp(-0.5)  # logarithm of the least weight


class WkvOps(Ops):
    """The part of `ReferenceOps` for RWKV."""

    def previous(self, x: Tensor, where: StateRef, name: str, batch: Batch) -> Tensor:
        kept, slots = kept_of(where, name, batch)
        starts, some = batch.seq_starts[:-1], batch.seq_starts.diff() > 0
        before = x.roll(1, 0)
        before[starts[some]] = kept[slots[some], 0].to(x.dtype)
        kept[slots[some], 0] = x[batch.seq_starts[1:][some] - 1].float()
        return before

    def lerp(
        self, x: Tensor, y: Tensor, factors: Tensor | None, moving: Tensor | None = None
    ) -> Tensor:
        a, width = x.float()[:, None], x.shape[1]
        if moving is None:
            assert factors is not None
            share = factors.view(1, -1, width)
        else:
            share = moving.float().view(len(x), -1, width)
            share = share if factors is None else factors.view(1, -1, width) + share
        return (a + (y.float()[:, None] - a) * share).flatten(1).to(x.dtype)

    def wkv(
        self,
        r: Tensor,
        k: Tensor,
        v: Tensor,
        decay: Tensor | None,
        base: Tensor,
        bonus: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> Tensor:
        raw = base[None] if decay is None else base + decay.float()
        w = torch.exp(-torch.exp(raw)).expand(len(r), -1)
        keys, values, out, weights = (_by_head(t, heads) for t in (k, v, r, w))
        extra = bonus.view(1, heads, -1)

        def step(h: Tensor, at: Tensor) -> Tensor:
            # h [B, heads, size, size]; a row's keys along dimension 2, values along 3
            given = keys[at][..., None] * values[at][:, :, None]
            y = _sum(out[at][..., None] * (h + extra[..., None] * given))
            h.copy_(weights[at][..., None] * h + given)
            return y

        return _in_order(step, v, where, name, batch, heads)

    def wkv_delta(
        self,
        r: Tensor,
        k: Tensor,
        v: Tensor,
        decay: Tensor,
        rate: Tensor,
        removal: Tensor,
        renewal: Tensor,
        bonus: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> tuple[Tensor, Tensor]:
        out, keys, values, weights, rates = (_by_head(t, heads) for t in (r, k, v, decay, rate))
        removal, renewal, bonus = (t.view(1, heads, -1) for t in (removal, renewal, bonus))
        weights = torch.exp(FASTEST * activate(weights, "sigmoid"))
        rates = activate(rates, "sigmoid")
        along = keys * removal
        length = _sum((along * along)[..., None]).sqrt().clamp(min=LEAST)
        along = along / length
        keys = keys * (1 + (rates - 1) * renewal)
        back = along * rates
        z = _sum((out * keys * bonus)[..., None]) * values

        def step(h: Tensor, at: Tensor) -> Tensor:
            gone = _sum(along[at][..., None] * h)[:, :, None]
            h.copy_(
                weights[at][..., None] * h
                - back[at][..., None] * gone
                + keys[at][..., None] * values[at][:, :, None]
            )
            return _sum(out[at][..., None] * h)

        y = _in_order(step, v, where, name, batch, heads)
        return y, z.flatten(1).to(v.dtype)


def _by_head(x: Tensor, heads: int) -> Tensor:
    """[N, heads * size] as float32 [N, heads, size]"""
    return x.float().reshape(len(x), heads, -1)


def _in_order(
    step: Callable[[Tensor, Tensor], Tensor],
    like: Tensor,
    where: StateRef,
    name: str,
    batch: Batch,
    heads: int,
) -> Tensor:
    """`step` on every row, in the order of each sequence: h of the sequences that have such a row,
    which it replaces, and the numbers of the rows -> y [B, heads, size]. Returns y of all rows in
    the shape of `like`."""
    kept, slots = kept_of(where, name, batch)
    starts: Sequence[int] = batch.seq_starts_host
    counts = [end - start for start, end in pairwise(starts)]
    order = sorted(range(len(counts)), key=lambda b: -counts[b])  # longest first
    picked = slots[torch.tensor(order, device=like.device)]
    first = torch.tensor([starts[b] for b in order], device=like.device)
    size = like.shape[1] // heads
    h = out_of_cells(kept[picked], size, heads)  # [B, keys, heads * values]
    h = h.view(len(order), size, heads, size).swapaxes(1, 2).contiguous()
    y = like.new_empty(len(like), heads, size, dtype=torch.float32)
    live = len(order)
    for t in range(max(counts, default=0)):
        while counts[order[live - 1]] <= t:
            live -= 1
        at = first[:live] + t
        y[at] = step(h[:live], at)
    kept[picked] = into_cells(h.swapaxes(1, 2).flatten(2), heads)
    return y.flatten(1).to(like.dtype)


def _sum(x: Tensor) -> Tensor:
    """The sum over the last dimension but one, [.., n, m] -> [.., m]: halves are added until one
    row is left."""
    count = 1 << (x.shape[-2] - 1).bit_length()
    x = F.pad(x, (0, 0, 0, count - x.shape[-2]))
    while count > 1:
        count //= 2
        x = x[..., :count, :] + x[..., count:, :]
    return x[..., 0, :]
