"""OLMoE: Llama's shape with norms over all heads of q and k, and small experts in every layer.

model_type: olmoe (Muennighoff et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.moe import MoE
from rbee_worker.models import parts, prenorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.experts import gated_experts, plain_routing
from rbee_worker.models.layer_plan import LayerPlan
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(prenorm.Config):
    """OLMoE's own keys; the width of an expert is intermediate_size."""

    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    clip_qkv: float | None = None
    num_experts_per_tok: int = 8
    num_experts: int = 64
    norm_topk_prob: bool = False


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    if c.clip_qkv is not None:
        raise UnsupportedModel(
            f"config: clip_qkv is {c.clip_qkv}, but this architecture would clip after its norms.",
            fix="use a published checkpoint of it, where clip_qkv is null.",
        )
    count, biases = c.num_experts, c.attention_bias
    routing = plain_routing(count, c.num_experts_per_tok, normalise=c.norm_topk_prob)

    def feed_forward(at: Weights, layer: LayerPlan) -> MoE:
        moe = at.sub("mlp")
        experts = gated_experts(moe.sub("experts"), c, count, c.intermediate_size)
        return MoE(w.ops, moe.linear("gate", c.hidden_size, count), routing, experts)

    return prenorm.build(
        c, w, feed_forward, bias=biases, out_bias=biases, qk_norm=parts.whole_norms
    )
