"""Persimmon: layer norms, squared ReLU, fused q, k, v per head; half of each head rotates.

model_type: persimmon (Adept 2023). q and k may be normalised per head.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.blocks import PreNorm
from rbee_worker.models import biased, parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.layer_plan import LayerPlan
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(biased.Config):
    """Persimmon's own values."""

    hidden_act: str = "relu2"
    max_position_embeddings: int = 16384
    qk_layernorm: bool = True


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    heads = c.num_attention_heads

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=biased.norm(at, c, "input_layernorm"),
            attention=biased.attention(at, c, layer, fused="query_key_value", groups=heads),
            mlp_norm=biased.norm(at, c, "post_attention_layernorm"),
            mlp=parts.plain_mlp(at.sub("mlp"), c, "dense_h_to_4h", "dense_4h_to_h", bias=True),
        )

    return biased.build(c, w, block)
