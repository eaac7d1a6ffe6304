"""Feed-forward blocks."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.ops import Activation, Ops
from rbee_worker.ops.batch import Array, Batch


@dataclass(frozen=True)
class GatedMLP:
    """down(act(gate x) * up x); gate and up are one stacked linear (Shazeer 2020, GLU variants)."""

    ops: Ops
    gate_up: Linear
    down: Linear
    act: Activation

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        gated = self.ops.gated(self.gate_up(x, batch), self.act)
        return self.down(gated, batch, precise=True)


@dataclass(frozen=True)
class GatedLastMLP:
    """down(up x * act(gate x)); up and gate are one linear, whose rows of up come first."""

    ops: Ops
    up_gate: Linear
    down: Linear
    act: Activation

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        up, gate = self.up_gate.split(x, batch)
        gated = self.ops.multiply(up, self.ops.act(gate, self.act))
        return self.down(gated, batch, precise=True)


@dataclass(frozen=True)
class PlainMLP:
    """down(act(up x))."""

    ops: Ops
    up: Linear
    down: Linear
    act: Activation

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        bent = self.ops.act(self.up(x, batch), self.act)
        return self.down(bent, batch, precise=True)
