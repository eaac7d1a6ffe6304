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
        given = into.float() + into_bias, passing.float() + passing_bias
        inflow, decay = gates(x.float(), *given, rates, batch.positions)
        return linear_scan(inflow, decay, kept, slots, batch.seq_starts_host).to(x.dtype)


def gates(
    x: Tensor, into: Tensor, passing: Tensor, rates: Tensor, positions: Tensor
) -> tuple[Tensor, Tensor]:
    """What comes to h in each row and what it is multiplied with before, float32 [N, width]; into,
    passing: with their biases."""
    given = activate(into, "sigmoid") * x
    power = rates * activate(passing, "sigmoid")
    first = positions[:, None] == 0
    decay = torch.exp(power).masked_fill(first, 0.0)
    return torch.where(first, given, torch.sqrt(-torch.expm1(2 * power)) * given), decay
