"""Based's linear attention of the reference backend: rows one after another, as in `scan.py`."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.reference.recurrence import kept_of
from rbee_worker.ops.reference.scan import into_cells, out_of_cells
from rbee_worker.state.specs import StateRef


class TaylorOps(Ops):
    """The part of `ReferenceOps` for Based."""

    def taylor(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
        *,
        heads: int,
    ) -> Tensor:
        kept, slots = kept_of(where, name, batch)
        size, columns = q.shape[1] // heads, v.shape[1] // heads
        first, second = _pairs(size, q.device)
        shares = torch.where((first == second) & (first > 0), 0.5, 1.0)  # of x^2 / 2
        weights = _products(q.float() * size**-0.5, heads, first, second) * shares[:, None, None]
        values = F.pad(v.float().view(len(v), heads, columns), (0, 1), value=1.0)
        h = out_of_cells(kept[slots], columns + 1, heads)
        whole = h.view(len(h), -1, heads, columns + 1)
        keys = _products(k.float(), heads, first, second)
        sums = _in_order(weights, keys, values, whole, batch.seq_starts_host)
        kept[slots] = into_cells(whole.view(h.shape), heads)
        return (sums[..., :-1] / sums[..., -1:]).flatten(1).to(v.dtype)


def _pairs(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """The two columns whose product a state is of, counted from 1; 0 stands for the number 1."""
    both = [(0, 0), *((i, j) for i in range(1, size + 1) for j in range(i + 1))]
    first, second = torch.tensor(both, device=device).unbind(1)
    return first, second


def _products(x: Tensor, heads: int, first: Tensor, second: Tensor) -> Tensor:
    """The products of a row's columns: x [N, heads * size] -> [N, states, heads, 1]."""
    columns = F.pad(x.view(len(x), heads, -1), (1, 0), value=1.0)
    return (columns[..., first] * columns[..., second]).swapaxes(1, 2)[..., None].contiguous()


def _in_order(
    weights: Tensor, keys: Tensor, values: Tensor, h: Tensor, starts: Sequence[int]
) -> Tensor:
    """The sums of each row, [N, heads, columns + 1]. weights, keys [N, states, heads, 1], values
    [N, heads, columns + 1]; h [B, states, heads, columns + 1], replaced with that after the last
    row of each sequence; starts: see `scan.linear_scan`. Sequences advance together."""
    counts = [end - start for start, end in pairwise(starts)]
    order = sorted(range(len(counts)), key=lambda b: -counts[b])  # longest first
    picked = torch.tensor(order, device=h.device)
    begins = torch.tensor([starts[b] for b in order], device=h.device)
    now, out, live = h[picked], torch.empty_like(values), len(order)
    for t in range(max(counts, default=0)):
        while counts[order[live - 1]] <= t:
            live -= 1
        rows = begins[:live] + t
        now[:live] += keys[rows] * values[rows][:, None]
        out[rows] = (now[:live] * weights[rows]).sum(1)
    h[picked] = now
    return out
