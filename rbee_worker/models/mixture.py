"""Mixtures of experts in Llama's shape.

model_type: mixtral (Jiang et al. 2024), qwen2_moe (an expert that all tokens share, behind a gate;
Qwen 2024), qwen3_moe (none; 2025), granitemoe and granitemoeshared (fused experts; IBM 2024).
GGUF files hold gate, up and down of all experts as one tensor each.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from rbee_worker.errors import CheckpointError
from rbee_worker.layers.blocks import FeedForward
from rbee_worker.layers.mlp import GatedMLP
from rbee_worker.layers.moe import Experts, MoE
from rbee_worker.models import parts, prenorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import activation, positive
from rbee_worker.models.experts import load_experts, load_fused
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Routing


@dataclass(frozen=True, kw_only=True)
class MixtralConfig(prenorm.Config):
    """Mixtral's and Granite's own keys; an expert is intermediate_size wide."""

    num_local_experts: int = 8
    num_experts_per_tok: int = 2
    shared_intermediate_size: int = 0
    router_jitter_noise: float = 0.0  # in training alone


@dataclass(frozen=True, kw_only=True)
class QwenConfig(prenorm.Config):
    """Qwen's own keys; every decoder_sparse_step-th layer is a mixture, but mlp_only_layers."""

    num_experts: int
    num_experts_per_tok: int
    moe_intermediate_size: int
    shared_expert_intermediate_size: int = 0
    norm_topk_prob: bool = False
    decoder_sparse_step: int = 1
    mlp_only_layers: list[int] = field(default_factory=list)


def build_mixtral(c: MixtralConfig, w: Weights) -> Decoder:
    """mixtral. Raises CheckpointError, UnsupportedModel."""
    _check(c.num_local_experts, c.num_experts_per_tok)
    routing = Routing(c.num_experts_per_tok, normalise=True)

    def feed_forward(at: Weights, layer: int) -> MoE:
        moe = at.sub("block_sparse_moe")
        experts = _experts(moe, c, c.num_local_experts, c.intermediate_size, ("w1", "w3", "w2"))
        return MoE(w.ops, moe.linear("gate", c.hidden_size, c.num_local_experts), routing, experts)

    return prenorm.build(c, w, feed_forward)


def build_qwen(c: QwenConfig, w: Weights) -> Decoder:
    """qwen2_moe and qwen3_moe. Raises CheckpointError, UnsupportedModel."""
    _check(c.num_experts, c.num_experts_per_tok)
    positive("config", decoder_sparse_step=c.decoder_sparse_step, width=c.moe_intermediate_size)
    routing = Routing(c.num_experts_per_tok, normalise=c.norm_topk_prob)
    names = ("gate_proj", "up_proj", "down_proj")

    def feed_forward(at: Weights, layer: int) -> FeedForward:
        moe = at.sub("mlp")
        if layer in c.mlp_only_layers or (layer + 1) % c.decoder_sparse_step:
            return parts.gated_mlp(moe, c)
        shared = c.shared_expert_intermediate_size
        return MoE(
            ops=w.ops,
            router=moe.linear("gate", c.hidden_size, c.num_experts),
            routing=routing,
            experts=_experts(moe, c, c.num_experts, c.moe_intermediate_size, names),
            shared=parts.gated_mlp(moe.sub("shared_expert"), c, inner=shared) if shared else None,
            shared_gate=moe.linear("shared_expert_gate", c.hidden_size, 1) if shared else None,
        )

    return prenorm.build(c, w, feed_forward)


def build_granite(c: MixtralConfig, w: Weights) -> Decoder:
    """granitemoe and granitemoeshared. Raises CheckpointError, UnsupportedModel."""
    _check(c.num_local_experts, c.num_experts_per_tok)
    dim, count, inner = c.hidden_size, c.num_local_experts, c.intermediate_size
    routing = Routing(c.num_experts_per_tok, normalise=True)
    act = activation(c.hidden_act)

    def shared(at: Weights) -> GatedMLP:
        width = c.shared_intermediate_size
        names = ("gate_proj", "up_proj")
        both = at.linear(names, dim, (width, width), fused="input_linear")
        return GatedMLP(w.ops, both, at.linear("output_linear", width, dim), act)

    def feed_forward(at: Weights, layer: int) -> MoE:
        moe = at.sub("block_sparse_moe")
        if moe.has("input_linear.weight"):
            up = load_fused(moe, "input_linear.weight", count, dim, 2 * inner)
            down = load_fused(moe, "output_linear.weight", count, inner, dim)
            experts = Experts(w.ops, up, down, act)
        else:
            experts = _experts(moe, c, count, inner, ("gate_proj", "up_proj", "down_proj"))
        return MoE(
            ops=w.ops,
            router=moe.linear("router.layer", dim, count),
            routing=routing,
            experts=experts,
            shared=shared(at.sub("shared_mlp")) if c.shared_intermediate_size else None,
        )

    return prenorm.build(c, w, feed_forward)


def _experts(
    moe: Weights, c: prenorm.Config, count: int, inner: int, names: tuple[str, str, str]
) -> Experts:
    """Experts by the names of their gate, up and down, each expert's own or all in one tensor."""
    at, (gate, up, down) = moe.sub("experts"), names
    return Experts(
        ops=moe.ops,
        up=load_experts(at, (gate, up), count, c.hidden_size, inner),
        down=load_experts(at, (down,), count, inner, c.hidden_size),
        act=activation(c.hidden_act),
    )


def _check(experts: int, chosen: int) -> None:
    positive("config", experts=experts, num_experts_per_tok=chosen)
    if chosen > experts:
        raise CheckpointError(
            f"config: num_experts_per_tok is {chosen}, there are {experts} experts.",
            fix="download the checkpoint's config again.",
        )
