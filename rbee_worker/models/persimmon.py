"""Persimmon: layer norms, squared ReLU, q, k, v of each head lie together, half of it rotates.

model_type: persimmon (Adept 2023). q and k may be normed head by head.
"""

from __future__ import annotations

from rbee_worker.layers.blocks import PreNorm
from rbee_worker.models import biased, parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.weights import Weights
from rbee_worker.ops import RopeSpec


def build(c: biased.Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    heads = c.num_attention_heads

    def block(at: Weights, rope: RopeSpec) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=biased.norm(at, c, "input_layernorm"),
            attention=biased.attention(at, c, rope, fused="query_key_value", groups=heads),
            mlp_norm=biased.norm(at, c, "post_attention_layernorm"),
            mlp=parts.plain_mlp(at.sub("mlp"), c, "dense_h_to_4h", "dense_4h_to_h", bias=True),
        )

    return biased.build(c, w, block)
