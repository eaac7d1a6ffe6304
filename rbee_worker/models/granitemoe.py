"""Granite with experts: Llama's shape with muP multipliers, and hybrids of it with Mamba 2.

model_type: granitemoe and granitemoeshared (with a block that all tokens share; IBM 2024),
granitemoehybrid (Granite 4; 2025), whose layers are recurrent or have attention, mostly without
positions, and which may have no experts. Gate and up are one tensor; GGUF files have two.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rbee_worker.layers.blocks import FeedForward
from rbee_worker.layers.mlp import GatedMLP
from rbee_worker.layers.moe import Experts, MoE
from rbee_worker.models import hybrid, prenorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import activation, positive
from rbee_worker.models.experts import gated_experts, load_fused, plain_routing
from rbee_worker.models.layer_plan import LayerPlan
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Multiplied(prenorm.Config):
    """The keys of multipliers and experts; an expert is intermediate_size wide."""

    embedding_multiplier: float = 1.0
    attention_multiplier: float | None = 1.0  # None means 1 / sqrt(head width)
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0
    num_local_experts: int = 8
    num_experts_per_tok: int = 2

    @property
    def multipliers(self) -> prenorm.Multipliers:
        """Raises CheckpointError."""
        factors = (self.embedding_multiplier, self.residual_multiplier, self.logits_scaling)
        return prenorm.multipliers(*factors)


@dataclass(frozen=True, kw_only=True)
class Config(Multiplied):
    """Granite's own keys."""

    attention_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Shared(Config):
    """Granite's keys with a feed-forward block that all tokens share."""

    shared_intermediate_size: int = 0


@dataclass(frozen=True, kw_only=True)
class Hybrid(Multiplied, hybrid.Config):
    """The hybrid's keys. Without experts, the shared block is all; position_embedding_type "rope"
    gives layers with attention rotary positions, all else none."""

    shared_intermediate_size: int = 1024
    layer_types: list[str] | None = None
    position_embedding_type: str | None = None

    @property
    def kinds(self) -> Sequence[str]:
        return hybrid.named(self.layer_types, self.num_hidden_layers)

    @property
    def turns(self) -> bool:
        return self.position_embedding_type == "rope"


def build(c: Config, w: Weights) -> Decoder:
    """granitemoe. Raises CheckpointError, UnsupportedModel."""
    return _plain(c, w, 0)


def build_shared(c: Shared, w: Weights) -> Decoder:
    """granitemoeshared. Raises CheckpointError, UnsupportedModel."""
    return _plain(c, w, c.shared_intermediate_size)


def build_hybrid(c: Hybrid, w: Weights) -> Decoder:
    """granitemoehybrid. Raises CheckpointError, UnsupportedModel."""
    positive("config", shared_intermediate_size=c.shared_intermediate_size)
    return hybrid.build(
        c,
        w,
        hybrid.either(c, w, scale=c.attention_multiplier),
        _feed_forward(c, w, c.num_local_experts, c.shared_intermediate_size),
        mlp_norm="post_attention_layernorm",
        norm="model.norm",
        by=c.multipliers,
    )


def _plain(c: Config, w: Weights, width: int) -> Decoder:
    return prenorm.build(
        c,
        w,
        _feed_forward(c, w, c.num_local_experts, width),
        bias=c.attention_bias,
        out_bias=c.attention_bias,
        attention_scale=c.attention_multiplier,
        by=c.multipliers,
    )


def _feed_forward(
    c: Multiplied, w: Weights, count: int, width: int
) -> Callable[[Weights, LayerPlan], FeedForward]:
    """count: of experts; width: of the block that all tokens share; 0: there is none."""
    dim, inner, act = c.hidden_size, c.intermediate_size, activation(c.hidden_act)
    routing = plain_routing(count, c.num_experts_per_tok, normalise=True) if count else None

    def shared(at: Weights) -> GatedMLP:
        names = ("gate_proj", "up_proj")
        both = at.linear(names, dim, (width, width), fused="input_linear")
        return GatedMLP(w.ops, both, at.linear("output_linear", width, dim), act)

    def feed_forward(at: Weights, layer: LayerPlan) -> FeedForward:
        if routing is None:
            return shared(at.sub("shared_mlp"))
        moe = at.sub("block_sparse_moe")
        if moe.has("input_linear.weight"):
            up = load_fused(moe, "input_linear.weight", count, dim, 2 * inner)
            down = load_fused(moe, "output_linear.weight", count, inner, dim)
            experts = Experts(w.ops, up, down, act)
        else:
            experts = gated_experts(moe.sub("experts"), c, count, inner)
        return MoE(
            ops=w.ops,
            router=moe.linear("router.layer", dim, count),
            routing=routing,
            experts=experts,
            shared=shared(at.sub("shared_mlp")) if width else None,
        )

    return feed_forward
