"""Linear attention in place of softmax attention (Based; Arora et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.layers.state_space import SCAN
from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import StateRef


@dataclass(frozen=True)
class TaylorAttention:
    """out(taylor(q, k, v)): see `Ops.taylor`.

    into: the projections to q, k and v; where: this layer's place in the state, the sums are tensor
    `SCAN`. Projections are precise, because their errors would last in the state.
    """

    ops: Ops
    into: Linear
    out: Linear
    where: StateRef
    heads: int

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        q, k, v = self.into.split(x, batch, precise=True)
        y = self.ops.taylor(q, k, v, self.where, SCAN, batch, heads=self.heads)
        return self.out(y, batch, precise=True)
