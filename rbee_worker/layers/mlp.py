"""Feed-forward blocks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rbee_worker.layers.linear import Linear
from rbee_worker.ops import Activation, Ops

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class GatedMLP:
    """down(act(gate x) * up x); gate and up are one stacked linear (Shazeer 2020, GLU variants)."""

    ops: Ops
    gate_up: Linear
    down: Linear
    act: Activation

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, dim] -> [N, dim]"""
        return self.down(self.ops.gated(self.gate_up(x), self.act), precise=True)


@dataclass(frozen=True)
class PlainMLP:
    """down(act(up x))."""

    ops: Ops
    up: Linear
    down: Linear
    act: Activation

    def __call__(self, x: Tensor) -> Tensor:
        """x [N, dim] -> [N, dim]"""
        return self.down(self.ops.act(self.up(x), self.act), precise=True)
