"""Gated delta rules in place of attention (Yang et al. 2024)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.layers.state_space import SCAN, CausalConv
from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import StateRef


@dataclass(frozen=True)
class DeltaNet:
    """out(norm(delta(conv(q, k, v))) * silu(gate)).

    into: projections to q, k, v and the gate, in that order, each as wide as `widths` says in each
    of `parts` equal parts of the rows; controls: to beta and dt of each head, likewise for each of
    `groups` groups; norm: of each head's columns; bias, rates, groups: see `Ops.gated_delta`;
    where: this layer's place in the state, h is tensor `SCAN`. Projections are precise, because
    their errors would last in the state.
    """

    ops: Ops
    into: Sequence[Linear]
    widths: tuple[int, int, int, int]
    parts: int
    controls: Linear
    conv: CausalConv
    bias: Array
    rates: Array
    norm: Callable[[Array], Array]
    out: Linear
    where: StateRef
    groups: int
    heads: int

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        ops = self.ops
        projected = [linear(x, batch, precise=True) for linear in self.into]
        both = projected[0] if len(projected) == 1 else ops.concat(projected)
        *qkv, gate = ops.split(both, self.widths, heads=self.parts)
        each = self.heads // self.groups
        controls = self.controls(x, batch, precise=True)
        beta, dt = ops.split(controls, (each, each), heads=self.groups)
        sizes = [self.parts * width for width in self.widths[:3]]
        q, k, v = ops.split(self.conv(ops.concat(qkv), batch), sizes)
        y = ops.gated_delta(
            q, k, v, dt, beta, self.bias, self.rates, self.where, SCAN, batch, groups=self.groups
        )
        gated = ops.multiply(self.norm(y), ops.act(gate, "silu"))
        return self.out(gated, batch, precise=True)
