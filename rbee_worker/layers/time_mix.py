"""Recurrent halves of a block that mix each row with the one before it (Peng et al. 2023-2025).

State: the last row of each half, and a matrix for each head. Projections into the recurrence are
precise, because their errors would last in the state.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.ops import Activation, Ops, Weight
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cells import scan_shape
from rbee_worker.state.specs import Fixed, StateRef

TIME, CHANNEL, WKV = "time", "channel", "wkv"  # tensors of the state


def state_of(width: int, heads: int, size: int) -> Fixed:
    """What a layer keeps: heads of `size` columns, and two rows of `width` columns."""
    rows = ((TIME, (1, width)), (CHANNEL, (1, width)))
    return Fixed((*rows, (WKV, scan_shape(size, size, heads))))


@dataclass(frozen=True)
class LowRank:
    """out(act(into x))."""

    ops: Ops
    into: Linear
    act: Activation | None
    out: Linear

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, in] -> [N, out]"""
        low = self.into(x, batch, precise=True)
        return self.out(
            low if self.act is None else self.ops.act(low, self.act), batch, precise=True
        )


@dataclass(frozen=True)
class Blend:
    """Mixes a row with the one before it, in several ways. shares: of the row before, for each way
    and column.

    first, into, each: if the shares depend on the row (RWKV 6), what they get added: members of
    `each`, one for each way, times parts of tanh(into x), where x is mixed by the shares `first`.
    """

    ops: Ops
    shares: Array  # [ways * width]
    ways: int
    first: Array | None = None
    into: Linear | None = None
    each: Weight | None = None

    def __call__(self, x: Array, before: Array, batch: Batch) -> tuple[Array, ...]:
        """x, before [N, width] -> the same shape, one for each way"""
        ops, moving = self.ops, None
        if self.first is not None and self.into is not None and self.each is not None:
            low = self.into(ops.lerp(x, before, self.first), batch, precise=True)
            moving = ops.heads_linear(ops.act(low, "tanh"), self.each)
        mixed = ops.lerp(x, before, self.shares, moving)
        width = self.shares.shape[0] // self.ways
        return ops.split(mixed, [width] * self.ways)


@dataclass(frozen=True)
class TimeMix:
    """out(norm(wkv(r, k, v)) * silu(gate)), as in RWKV 5 and 6.

    blend: gives the inputs of r, k, v and the gate, and that of `decay` if there is one; base,
    bonus: see `Ops.wkv`; norm: of each head; where: this layer's place in the state.
    """

    ops: Ops
    blend: Blend
    receptance: Linear
    key: Linear
    value: Linear
    gate: Linear
    decay: LowRank | None
    base: Array
    bonus: Array
    norm: LayerNorm
    out: Linear
    where: StateRef

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        ops, where = self.ops, self.where
        before = ops.previous(x, where, TIME, batch)
        for_r, for_k, for_v, for_gate, *for_decay = self.blend(x, before, batch)
        r = self.receptance(for_r, batch, precise=True)
        k = self.key(for_k, batch, precise=True)
        v = self.value(for_v, batch, precise=True)
        decay = None if self.decay is None else self.decay(for_decay[0], batch)
        mixed = ops.wkv(
            r, k, v, decay, self.base, self.bonus, where, WKV, batch, heads=self.norm.heads
        )
        gate = ops.act(self.gate(for_gate, batch), "silu")
        return self.out(ops.multiply(self.norm(mixed), gate), batch, precise=True)


@dataclass(frozen=True)
class DeltaTimeMix:
    """out((norm(y) + z) * gate) of `Ops.wkv_delta`, as in RWKV 7.

    blend: gives the inputs of r, decay, k, v, rate and gate, in this order; share: how much of its
    values a layer takes from the first one's, before a sigmoid (None: the first layer); removal,
    renewal, bonus: see `Ops.wkv_delta`; where: this layer's place in the state.
    """

    ops: Ops
    blend: Blend
    receptance: Linear
    key: Linear
    value: Linear
    decay: LowRank
    rate: LowRank
    gate: LowRank
    share: LowRank | None
    removal: Array
    renewal: Array
    bonus: Array
    norm: LayerNorm
    out: Linear
    where: StateRef

    def __call__(self, x: Array, first: Array | None, batch: Batch) -> tuple[Array, Array]:
        """x [N, dim], values of the first layer [N, dim] (None in that layer) -> [N, dim], and
        the values"""
        ops, where = self.ops, self.where
        before = ops.previous(x, where, TIME, batch)
        for_r, for_decay, for_k, for_v, for_rate, for_gate = self.blend(x, before, batch)
        r = self.receptance(for_r, batch, precise=True)
        k = self.key(for_k, batch, precise=True)
        v = self.value(for_v, batch, precise=True)
        if self.share is not None:
            assert first is not None, "the first layer is computed first"
            v = ops.lerp(v, first, None, ops.act(self.share(for_v, batch), "sigmoid"))
        mixed, own = ops.wkv_delta(
            r,
            k,
            v,
            self.decay(for_decay, batch),
            self.rate(for_rate, batch),
            self.removal,
            self.renewal,
            self.bonus,
            where,
            WKV,
            batch,
            heads=self.norm.heads,
        )
        gated = ops.multiply(ops.add(self.norm(mixed), own), self.gate(for_gate, batch))
        return self.out(gated, batch, precise=True), v


@dataclass(frozen=True)
class ChannelMix:
    """value(relu(key k)^2), times sigmoid(receptance r) if there is one; k and r are mixed with the
    row before. where: this layer's place in the state."""

    ops: Ops
    blend: Blend
    key: Linear
    value: Linear
    receptance: Linear | None
    where: StateRef

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        ops = self.ops
        before = ops.previous(x, self.where, CHANNEL, batch)
        for_k, *for_r = self.blend(x, before, batch)
        fed = self.value(ops.act(self.key(for_k, batch), "relu2"), batch, precise=True)
        if self.receptance is None:
            return fed
        return ops.multiply(fed, ops.act(self.receptance(for_r[0], batch), "sigmoid"))
