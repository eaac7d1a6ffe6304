"""What Gemma 4's layers compute: attention with normalised values, experts beside the feed-forward
block, and an additional input for each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from rbee_worker.layers.linear import Linear
from rbee_worker.layers.mlp import GatedMLP
from rbee_worker.layers.moe import MoE
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.models.base import Decoder, Layer
from rbee_worker.ops import Activation, Ops, RopeSpec, Weight
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import StateRef


@dataclass(frozen=True)
class Mixer:
    """Attention whose q, k and v are normalised per head. kv None: an earlier layer writes the keys
    and values at `where`. v_norm has no weights. If kv has one output, keys also serve as
    values."""

    ops: Ops
    q: Linear
    kv: Linear | None
    out: Linear
    q_norm: RMSNorm
    k_norm: RMSNorm | None
    v_norm: RMSNorm
    where: StateRef
    heads: int
    kv_heads: int
    rope: RopeSpec
    window: int | None

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, dim] -> [N, dim]"""
        ops, k, v = self.ops, None, None
        q = ops.rope(self.q_norm(self.q(x, batch)), self.rope, batch, heads=self.heads)
        if self.kv is not None and self.k_norm is not None:
            both = self.kv.split(x, batch, precise=True)
            v = self.v_norm(both[-1])
            k = ops.rope(self.k_norm(both[0]), self.rope, batch, heads=self.kv_heads)
        mixed = ops.attend(
            q, k, v, self.where, batch, heads=self.heads, scale=1.0, window=self.window
        )
        return self.out(mixed, batch, precise=True)


@dataclass(frozen=True)
class Mixture:
    """norm(mlp) + norm(experts(norm x)); the router reads x through a norm of its own."""

    ops: Ops
    mlp_after: RMSNorm
    router_norm: RMSNorm
    before: RMSNorm
    experts: MoE
    after: RMSNorm

    def __call__(self, x: Array, fed: Array, batch: Batch) -> Array:
        """x [N, dim] before the feed-forward block, fed after it -> [N, dim]"""
        mixed = self.after(self.experts.of(self.before(x), self.router_norm(x), batch))
        return self.ops.add(self.mlp_after(fed), mixed)


@dataclass(frozen=True)
class LayerInput:
    """x + norm(out(act(gate x) * own)), where `own` is the layer's additional input."""

    ops: Ops
    gate: Linear
    out: Linear
    norm: RMSNorm
    act: Activation

    def __call__(self, x: Array, own: Array, batch: Batch) -> Array:
        """x [N, dim], own [N, width] -> [N, dim]"""
        gated = self.ops.multiply(self.ops.act(self.gate(x, batch), self.act), own)
        return self.ops.add(x, self.norm(self.out(gated, batch)))


@dataclass(frozen=True)
class Block:
    """Norms around each half, experts beside the feed-forward block, an additional input, a
    factor."""

    ops: Ops
    attention_norm: RMSNorm
    attention: Mixer
    attention_after: RMSNorm
    mlp_norm: RMSNorm
    mlp: GatedMLP
    mixture: Mixture | None
    mlp_after: RMSNorm
    own: LayerInput | None
    factor: float

    def __call__(self, x: Array, batch: Batch, own: Array | None = None) -> Array:
        """x [N, dim], own [N, width] -> [N, dim]"""
        ops = self.ops
        x = ops.add(x, self.attention_after(self.attention(self.attention_norm(x), batch)))
        fed = self.mlp(self.mlp_norm(x), batch)
        if self.mixture is not None:
            fed = self.mixture(x, fed, batch)
        x = ops.add(x, self.mlp_after(fed))
        if self.own is not None and own is not None:
            x = self.own(x, own, batch)
        return x if self.factor == 1.0 else ops.scale(x, self.factor)


@dataclass(frozen=True)
class LayerInputs:
    """The additional input of every layer: (norm(project x) + its token embedding) / sqrt 2."""

    ops: Ops
    table: Weight
    project: Linear
    norm: RMSNorm  # its `heads` are the layers
    scale: float  # factor on the embedding

    def __call__(self, x: Array, batch: Batch) -> tuple[Array, ...]:
        """x [N, dim], the embeddings -> one [N, width] per layer"""
        ops, layers = self.ops, self.norm.heads
        own = ops.embed(self.table, batch, scale=self.scale)
        both = ops.scale(ops.add(self.norm(self.project(x, batch)), own), 2**-0.5)
        return ops.split(both, [self.table.cols // layers] * layers)


@dataclass(frozen=True)
class WithLayerInputs(Decoder):
    """A decoder in which every block gets an additional input."""

    inputs: LayerInputs | None = None

    def layers(self, x: Array, batch: Batch) -> Sequence[Layer]:
        """See `Decoder.layers`."""
        if self.inputs is None:
            return super().layers(x, batch)
        layers: list[Layer] = []
        for block, own in zip(self.blocks, self.inputs(x, batch), strict=True):
            assert isinstance(block, Block)
            layers.append(partial(block, batch=batch, own=own))
        return layers
