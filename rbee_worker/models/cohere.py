"""Cohere Command-R and R+: attention and MLP in parallel, layer norms without biases.

model_type: cohere (Cohere 2024). Rotary pairs are adjacent columns, logits are scaled; R+ has q and
k norms with weights for each head.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.blocks import Parallel
from rbee_worker.layers.norm import EachHeadNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Cohere's own keys."""

    max_position_embeddings: int = 8192
    rope_theta: float = 5e5
    tie_word_embeddings: bool = True
    layer_norm_eps: float = 1e-5
    attention_bias: bool = False
    use_qk_norm: bool | None = False
    logit_scale: float = 0.0625


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    plans = plan_layers(c, parts.rope_of(w, c, interleaved=True))

    def block(at: Weights, layer: LayerPlan) -> Parallel:
        mix = at.sub("self_attn")

        def norm(part: str, heads: int) -> EachHeadNorm:
            return mix.each_head_norm(f"{part}_norm", c.width, c.layer_norm_eps, heads=heads)

        return Parallel(
            ops=w.ops,
            norm=at.layer_norm("input_layernorm", c.hidden_size, c.layer_norm_eps, bias=False),
            attention=parts.attention(
                mix,
                c,
                layer=layer,
                bias=c.attention_bias,
                out_bias=c.attention_bias,
                qk_norm=norm if c.use_qk_norm else None,
            ),
            mlp=parts.gated_mlp(at.sub("mlp"), c),
        )

    norm = w.layer_norm("model.norm", c.hidden_size, c.layer_norm_eps, bias=False)
    return parts.decoder(w, c, plans, block, norm, logits_scale=c.logit_scale)
