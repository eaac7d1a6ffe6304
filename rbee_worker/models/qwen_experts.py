"""Qwen's mixtures: some layers have experts, beside one that all tokens share, behind a gate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rbee_worker.layers.blocks import FeedForward
from rbee_worker.layers.moe import MoE
from rbee_worker.models import parts, prenorm
from rbee_worker.models.config import positive
from rbee_worker.models.experts import gated_experts, plain_routing
from rbee_worker.models.layer_plan import LayerPlan
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(prenorm.Config):
    """The mixtures' keys. Every decoder_sparse_step-th layer has experts, except
    mlp_only_layers."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] | None = None


def feed_forward(c: Config, shared: int) -> Callable[[Weights, LayerPlan], FeedForward]:
    """Makes a layer's `mlp`, plain or a mixture; shared: width of the expert that all tokens share,
    0: there is none. Raises CheckpointError."""
    positive("config", decoder_sparse_step=c.decoder_sparse_step, width=c.moe_intermediate_size)
    routing = plain_routing(c.num_experts, c.num_experts_per_tok, normalise=c.norm_topk_prob)

    def make(at: Weights, layer: LayerPlan) -> FeedForward:
        moe = at.sub("mlp")
        dense = layer.number in (c.mlp_only_layers or ())
        if dense or (layer.number + 1) % c.decoder_sparse_step:
            return parts.gated_mlp(moe, c)
        return MoE(
            ops=at.ops,
            router=moe.linear("gate", c.hidden_size, c.num_experts),
            routing=routing,
            experts=gated_experts(moe.sub("experts"), c, c.num_experts, c.moe_intermediate_size),
            shared=parts.gated_mlp(moe.sub("shared_expert"), c, inner=shared) if shared else None,
            shared_gate=moe.linear("shared_expert_gate", c.hidden_size, 1) if shared else None,
        )

    return make
