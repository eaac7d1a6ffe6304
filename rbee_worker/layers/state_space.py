"""State spaces: a causal convolution, then a recurrence whose parameters depend on the input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.ops import Activation, Ops
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import StateRef

CONV, SCAN = "conv", "h"  # tensors of the state


@dataclass(frozen=True)
class CausalConv:
    """A convolution per column over a row and the K - 1 rows before it, then `act` (None: no
    activation).

    taps: float32 [K * width], the oldest row's first. The state is tensor `CONV` at `where`.
    """

    ops: Ops
    taps: Array
    bias: Array | None
    act: Activation | None
    where: StateRef

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, width] -> the same shape"""
        return self.ops.causal_conv(x, self.taps, self.bias, self.where, CONV, batch, kind=self.act)


@dataclass(frozen=True)
class SelectiveSpace:
    """out(scan(conv x) * silu(gate)) of two projections x and gate (Gu & Dao 2023).

    into: the projection to x and gate; parameters: from the convolved x to a narrow dt, B and C;
    norms: of these three; step: from the narrow dt to one for each column; rates,
    skip: see `Ops.selective_scan`. where: this layer's place in the state, h is tensor `SCAN`.

    Projections are precise, because their errors would last in the state.
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
    norms: Sequence[Callable[[Array], Array]] | None = None

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        x, gate = self.into.split(x, batch, precise=True)
        x = self.conv(x, batch)
        dt, b, c = self.parameters.split(x, batch, precise=True)
        if self.norms is not None:
            dt, b, c = (n(v) for n, v in zip(self.norms, (dt, b, c), strict=True))
        dt = self.step(dt, batch, precise=True)
        mixed = self.ops.selective_scan(
            x, dt, b, c, gate, self.rates, self.skip, self.where, SCAN, batch
        )
        return self.out(mixed, batch, precise=True)


@dataclass(frozen=True)
class HeadedSpace:
    """out(norm(scan(conv x) * silu(gate))); x, B and C are convolved together (Dao & Gu 2024).

    into: the projection to the gate, to x, B and C, and to dt of each head; shared: the number of
    columns of B, and of C; bias, rates, skip, groups: see `Ops.ssd`; norm None: there is none.
    where: this layer's place in the state, h is tensor `SCAN`. Projections are precise, because
    their errors would last in the state.
    """

    ops: Ops
    into: Linear
    conv: CausalConv
    shared: int
    bias: Array
    rates: Array
    skip: Array
    norm: Callable[[Array], Array] | None
    out: Linear
    where: StateRef
    groups: int = 1

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        gate, convolved, dt = self.into.split(x, batch, precise=True)
        mixed = self.scanned(convolved, dt, gate, batch)
        normed = mixed if self.norm is None else self.norm(mixed)
        return self.out(normed, batch, precise=True)

    def scanned(self, x: Array, dt: Array, gate: Array | None, batch: Batch) -> Array:
        """The scan of x, B and C before their convolution, times silu(gate), if there is one."""
        parts = (self.into.widths[0], self.shared, self.shared)
        x, b, c = self.ops.split(self.conv(x, batch), parts)
        vectors = (self.bias, self.rates, self.skip)
        return self.ops.ssd(
            x, dt, b, c, gate, *vectors, self.where, SCAN, batch, groups=self.groups
        )


class NormedSpace(HeadedSpace):
    """out(norm(scan(conv x)) * silu(gate)): the norm comes before the gate."""

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        gate, convolved, dt = self.into.split(x, batch, precise=True)
        mixed = self.scanned(convolved, dt, None, batch)
        normed = mixed if self.norm is None else self.norm(mixed)
        gated = self.ops.multiply(normed, self.ops.act(gate, "silu"))
        return self.out(gated, batch, precise=True)
