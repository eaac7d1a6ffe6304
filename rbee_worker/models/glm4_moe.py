"""GLM-4.5 and 4.6: DeepSeek V3's mixture of experts, half of each head rotates.

model_type: glm4_moe (Zhipu 2025). Beside Llama: biases of q, k and v, norms of each head in the
large sizes only, a sigmoid router whose bias affects the choice alone, a layer that predicts
further tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.linear import Linear
from rbee_worker.models import parts, small_experts
from rbee_worker.models.base import Decoder
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.mtp import MtpLayer, read_layer, unread
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Weight


@dataclass(frozen=True, kw_only=True)
class Config(small_experts.Config):
    """GLM-4.5's own keys; `scoring_func` is of GGUF files."""

    num_key_value_heads: int = 8
    max_position_embeddings: int = 131072
    rms_norm_eps: float = 1e-5
    partial_rotary_factor: float = 0.5
    attention_bias: bool = False
    use_qk_norm: bool = False
    n_routed_experts: int | None = 128
    n_shared_experts: int | None = 1
    num_experts_per_tok: int = 8
    first_k_dense_replace: int = 1
    norm_topk_prob: bool | None = True
    scoring_func: str | None = None
    num_nextn_predict_layers: int = 1


def build(c: Config, w: Weights) -> Decoder:
    """glm4_moe. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    if c.scoring_func not in (None, "sigmoid"):
        raise UnsupportedModel(
            f"config: scoring_func is {c.scoring_func!r}.", fix="supported: sigmoid."
        )
    plans, routing = plan_layers(c, parts.rope_of(w, c)), small_experts.routing(c, "sigmoid")
    dim, eps, further = c.hidden_size, c.rms_norm_eps, c.num_hidden_layers

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        mix = at.sub("self_attn")
        norms = parts.head_norms(mix, c, eps) if c.use_qk_norm else None
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", dim, eps),
            attention=parts.attention(mix, c, layer=layer, bias=c.attention_bias, qk_norm=norms),
            mlp_norm=at.rms_norm("post_attention_layernorm", dim, eps),
            mlp=small_experts.feed_forward(at, c, routing, layer),
        )

    def mtp(at: Weights, embed: Weight, out: Linear) -> MtpLayer | None:
        layer = at.unadapted(f"model.layers.{further}")
        plan = replace(plans[-1], number=further)
        return read_layer(layer, lambda: block(layer, plan), embed, out, dim=dim, eps=eps)

    norm = w.rms_norm("model.norm", dim, eps)
    skip = unread(further, c.num_nextn_predict_layers, used=w.ops.mtp)
    return parts.decoder(w, c, plans, block, norm, skip=skip, mtp=mtp)
