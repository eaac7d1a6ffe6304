"""Gated short convolutions, in place of attention."""

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


@dataclass(frozen=True)
class GatedConv:
    """out(conv(x) * gate) of two projections x and gate (Based; Arora et al. 2024).

    into: the projection to x and the gate. It is precise, because its errors would last in the
    state. conv: with its activation.
    """

    ops: Ops
    into: Linear
    conv: CausalConv
    out: Linear

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        x, gate = self.into.split(x, batch, precise=True)
        mixed = self.ops.multiply(self.conv(x, batch), gate)
        return self.out(mixed, batch, precise=True)
