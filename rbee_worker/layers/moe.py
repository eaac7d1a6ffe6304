"""A mixture of experts: a router, the experts it chooses, and experts that all tokens share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from rbee_worker.layers.blocks import FeedForward
from rbee_worker.layers.linear import Linear
from rbee_worker.ops import Activation, Ops, Routing, Weight
from rbee_worker.ops.batch import Array, Batch


@dataclass(frozen=True)
class Experts:
    """down_e(act(gate_e x) * up_e x) for each expert e (Shazeer et al. 2017); see `Ops.experts`.

    up: stack of [gate; up], or of up alone; biases: float32 [experts * rows]; limit: the bound at
    which the gate is clamped (GPT-OSS).
    """

    ops: Ops
    up: Weight
    down: Weight
    act: Activation
    up_bias: Array | None = None
    down_bias: Array | None = None
    limit: float | None = None

    def __call__(self, x: Array, ids: Array, weights: Array | None) -> Array:
        """x [N, dim], ids and weights [N, top_k] -> [N, dim]"""
        return self.ops.experts(
            x,
            ids,
            weights,
            self.up,
            self.down,
            self.act,
            up_bias=self.up_bias,
            down_bias=self.down_bias,
            limit=self.limit,
        )


@dataclass(frozen=True)
class MoE:
    """The sum of the chosen experts' results and of the shared block's.

    router: map to logits; choice_bias: affects only the choice; scales: factors on experts'
    weights; weigh: whether a token's weights multiply the experts' results or (with one expert per
    token) their input; shared: a feed-forward block for every token; shared_gate: map to a value
    whose sigmoid multiplies the shared block's result; narrow: maps into and out of the space that
    the experts work in, which is the model's if there are none.
    """

    ops: Ops
    router: Linear
    routing: Routing
    experts: Experts
    choice_bias: Array | None = None
    scales: Array | None = None
    weigh: Literal["results", "inputs"] = "results"
    shared: FeedForward | None = None
    shared_gate: Linear | None = None
    narrow: tuple[Linear, Linear] | None = None

    def __post_init__(self) -> None:
        assert self.weigh == "results" or self.routing.top_k == 1

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        return self.of(x, x, batch)

    def of(self, x: Array, routed_by: Array, batch: Batch) -> Array:
        """The experts' result for x [N, dim]; the router chooses from `routed_by` [N, dim]."""
        logits = self.router.logits(routed_by, batch)
        ids, weights = self.ops.route(
            logits, self.routing, bias=self.choice_bias, scales=self.scales
        )
        given = x if self.narrow is None else self.narrow[0](x, batch)
        if self.weigh == "inputs":
            mixed = self.experts(self.ops.multiply(given, weights), ids, None)
        else:
            mixed = self.experts(given, ids, weights)
        if self.narrow is not None:
            mixed = self.narrow[1](mixed, batch)
        if self.shared is None:
            return mixed
        always = self.shared(x, batch)
        if self.shared_gate is not None:
            gate = self.ops.act(self.shared_gate(x, batch), "sigmoid")
            always = self.ops.multiply(always, gate)
        return self.ops.add(mixed, always)
