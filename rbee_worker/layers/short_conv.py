"""A gated short convolution, in place of attention."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.layers.state_space import CausalConv
from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Array, Batch


@dataclass(frozen=True)
class ShortConv:
    """out(c * conv(b * x)) of three projections b, c and x (Liquid AI 2025).

    into: the projection to b, c and x. It is precise, because its errors would last in the state.
    """

    ops: Ops
    into: Linear
    conv: CausalConv
    out: Linear

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        b, c, x = self.into.split(x, batch, precise=True)
        mixed = self.conv(self.ops.multiply(b, x), batch)
        return self.out(self.ops.multiply(c, mixed), batch, precise=True)
