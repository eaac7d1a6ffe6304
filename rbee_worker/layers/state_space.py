"""State spaces: a causal convolution, then a recurrence whose parameters follow from the input."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.ops import Activation, Ops
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import StateRef

CONV, SCAN = "conv", "h"  # tensors of the state


@dataclass(frozen=True)
class CausalConv:
    """A convolution of each column alone over a row and those before it, then `act`.

    taps: float32 [K * width], those of the oldest row first; the K - 1 rows before a step are in
    tensor `CONV` of the state at `where`.
    """

    ops: Ops
    taps: Array
    bias: Array | None
    act: Activation
    where: StateRef

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, width] -> the same shape"""
        return self.ops.causal_conv(x, self.taps, self.bias, self.where, CONV, batch, kind=self.act)


@dataclass(frozen=True)
class SelectiveSpace:
    """out(scan(conv x) * silu(gate)), x and gate being maps of the input (Gu & Dao 2023).

    into: to x and gate; parameters: of x after its convolution to a narrow dt, and to B and C;
    norm: what those three go through, each alone; step: the narrow dt to one for each column; rates
    and skip: see `Ops.selective_scan`. where: this layer's place in the state, h in tensor `SCAN`.

    Maps whose errors would last in the state are precise.
    """

    ops: Ops
    into: Linear
    conv: CausalConv
    parameters: Linear
    step: Linear
    rates: Array
    skip: Array
    out: Linear
    where: StateRef
    norm: Callable[[Array], Array] | None = None

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        x, gate = self.into.split(x, batch, precise=True)
        x = self.conv(x, batch)
        dt, b, c = self.parameters.split(x, batch, precise=True)
        if self.norm is not None:
            dt, b, c = self.norm(dt), self.norm(b), self.norm(c)
        dt = self.step(dt, batch, precise=True)
        mixed = self.ops.selective_scan(
            x, dt, b, c, gate, self.rates, self.skip, self.where, SCAN, batch
        )
        return self.out(mixed, batch, precise=True)


@dataclass(frozen=True)
class HeadedSpace:
    """out(norm(scan(conv x) * silu(gate))) with x, B and C convolved together (Dao & Gu 2024).

    into: to the gate, to x, B and C, and to dt of each head; shared: columns of B, and of C; bias,
    rates, skip, groups: see `Ops.ssd`. where: this layer's place in the state, h in tensor `SCAN`.
    Maps whose errors would last in the state are precise.
    """

    ops: Ops
    into: Linear
    conv: CausalConv
    shared: int
    bias: Array
    rates: Array
    skip: Array
    norm: Callable[[Array], Array]
    out: Linear
    where: StateRef
    groups: int = 1

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        gate, convolved, dt = self.into.split(x, batch, precise=True)
        parts = (self.into.widths[0], self.shared, self.shared)
        x, b, c = self.ops.split(self.conv(convolved, batch), parts)
        vectors = (self.bias, self.rates, self.skip)
        mixed = self.ops.ssd(
            x, dt, b, c, gate, *vectors, self.where, SCAN, batch, groups=self.groups
        )
        return self.out(self.norm(mixed), batch, precise=True)
