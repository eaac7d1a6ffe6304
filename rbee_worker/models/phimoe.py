"""Phi-3.5-MoE: layer norms, LongRoPE, two of sixteen experts chosen one after the other.

model_type: phimoe (Abdin et al. 2024). Routing is SparseMixer-v2's. Sequences longer than the
original context use the long set of divisors, as in the model's own code; transformers uses the
short set at any length.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.moe import MoE
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import WindowConfig, positive
from rbee_worker.models.experts import gated_experts
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Routing


@dataclass(frozen=True, kw_only=True)
class Config(WindowConfig):
    """Phi-MoE's own keys; `rope_magnitude` is a GGUF file's LongRoPE magnitude."""

    num_key_value_heads: int = 8
    max_position_embeddings: int = 131072
    rope_theta: float = 1e6
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    lm_head_bias: bool = False
    original_max_position_embeddings: int | None = None
    rope_magnitude: float | None = None
    num_local_experts: int = 16
    num_experts_per_tok: int = 2
    router_jitter_noise: float = 0.01


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    positive("config", experts=c.num_local_experts)
    if c.num_experts_per_tok != 2 or c.num_local_experts < 2:
        raise UnsupportedModel(
            f"config: {c.num_experts_per_tok} of {c.num_local_experts} experts for a token.",
            fix="this routing chooses exactly two; check num_experts_per_tok.",
        )
    rope = parts.long_rope(
        w, c, original=c.original_max_position_embeddings, magnitude=c.rope_magnitude
    )
    plans = plan_layers(c, rope)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=_norm(at, c, "input_layernorm"),
            attention=parts.attention(
                at.sub("self_attn"),
                c,
                layer=layer,
                bias=c.attention_bias,
                out_bias=c.attention_bias,
            ),
            mlp_norm=_norm(at, c, "post_attention_layernorm"),
            mlp=_experts(at.sub("block_sparse_moe"), c),
        )

    norm = _norm(w, c, "model.norm")
    return parts.decoder(w, c, plans, block, norm, head_bias=c.lm_head_bias)


def _experts(w: Weights, c: Config) -> MoE:
    count, names = c.num_local_experts, ("w1", "w3", "w2")
    return MoE(
        ops=w.ops,
        router=w.linear("gate", c.hidden_size, count),
        routing=Routing(c.num_experts_per_tok, "sparsemixer", jitter=c.router_jitter_noise),
        experts=gated_experts(w.sub("experts"), c, count, c.intermediate_size, names),
    )


def _norm(w: Weights, c: Config, name: str) -> LayerNorm:
    return w.layer_norm(name, c.hidden_size, c.rms_norm_eps)
