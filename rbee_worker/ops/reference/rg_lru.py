"""RG-LRU's recurrence of the reference backend."""

from __future__ import annotations

import torch
from torch import Tensor

from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.reference.experts import activate
from rbee_worker.ops.reference.recurrence import kept_of
from rbee_worker.ops.reference.scan import linear_scan
from rbee_worker.state.specs import StateRef


class RgLruOps(Ops):
    """The part of `ReferenceOps` for RG-LRU layers."""

    def rg_lru(
        self,
        x: Tensor,
        into: Tensor,
        passing: Tensor,
        into_bias: Tensor,
        passing_bias: Tensor,
        rates: Tensor,
        where: StateRef,
        name: str,
        batch: Batch,
    ) -> Tensor:
        kept, slots = kept_of(where, name, batch)
        given = activate(into.float() + into_bias, "sigmoid") * x.float()
        power = rates * activate(passing.float() + passing_bias, "sigmoid")
        first = batch.positions[:, None] == 0
        decay = torch.exp(power).masked_fill(first, 0.0)
        inflow = torch.where(first, given, torch.sqrt(-torch.expm1(2 * power)) * given)
        return linear_scan(inflow, decay, kept, slots, batch.seq_starts_host).to(x.dtype)
