"""Nemotron: layer norms centred on 1, squared ReLU without a gate, half of each head rotates.

model_type: nemotron (Nemotron 3 and 4, Minitron; Parmar et al. 2024, Muralidharan et al. 2024).
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Nemotron's own keys."""

    hidden_act: str = "relu2"
    max_position_embeddings: int = 4096
    partial_rotary_factor: float = 0.5
    norm_eps: float = 1e-5
    attention_bias: bool = False
    mlp_bias: bool = False


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)

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
            mlp=parts.plain_mlp(at.sub("mlp"), c, "up_proj", "down_proj", bias=c.mlp_bias),
        )

    plans = plan_layers(c, parts.rope_of(w, c))
    return parts.decoder(w, c, plans, block, _norm(w, c, "model.norm"))


def _norm(w: Weights, c: Config, name: str) -> LayerNorm:
    return w.layer_norm(name, c.hidden_size, c.norm_eps, centre=1.0)
