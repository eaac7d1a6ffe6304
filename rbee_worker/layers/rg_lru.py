"""Griffin's recurrent block: a convolution, then a gated linear recurrence (De et al. 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.layers.state_space import SCAN, CausalConv
from rbee_worker.ops import Activation, Ops, Weight
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import StateRef


@dataclass(frozen=True)
class RgLruBlock:
    """out(lru(conv x) * act(gate)) of two projections x and gate.

    into: the projection to x and the gate; input_gate, passing_gate: stacks of square matrices, one
    for each part of a row; their biases and rates: see `Ops.rg_lru`; where: this layer's place in
    the state, h is tensor `SCAN`. Projections are precise, because their errors would last in the
    state.
    """

    ops: Ops
    into: Linear
    conv: CausalConv
    input_gate: Weight
    passing_gate: Weight
    input_bias: Array
    passing_bias: Array
    rates: Array
    out: Linear
    act: Activation
    where: StateRef

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        x, gate = self.into.split(x, batch, precise=True)
        x = self.conv(x, batch)
        into = self.ops.heads_linear(x, self.input_gate)
        passing = self.ops.heads_linear(x, self.passing_gate)
        vectors = (self.input_bias, self.passing_bias, self.rates)
        h = self.ops.rg_lru(x, into, passing, *vectors, self.where, SCAN, batch)
        mixed = self.ops.multiply(h, self.ops.act(gate, self.act))
        return self.out(mixed, batch, precise=True)
