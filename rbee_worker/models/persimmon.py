"""Persimmon: layer norms, squared ReLU, q, k, v of each head lie together, half of it rotates.

model_type: persimmon (Adept 2023). q and k may be normed head by head.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Persimmon's own keys."""

    layer_norm_eps: float = 1e-5
    qk_layernorm: bool = True


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    rope = parts.rope_of(w, c)

    def block(at: Weights, layer: int) -> PreNorm:
        mix = at.sub("self_attn")

        def norm(part: str, heads: int) -> LayerNorm:
            return mix.layer_norm(f"{part}_layernorm", c.width, c.layer_norm_eps, heads=heads)

        return PreNorm(
            ops=w.ops,
            attention_norm=at.layer_norm("input_layernorm", c.hidden_size, c.layer_norm_eps),
            attention=parts.attention(
                mix,
                c,
                rope=rope,
                bias=True,
                out="dense",
                out_bias=True,
                qk_norm=norm if c.qk_layernorm else None,
                fused="query_key_value",
                groups=c.num_attention_heads,
            ),
            mlp_norm=at.layer_norm("post_attention_layernorm", c.hidden_size, c.layer_norm_eps),
            mlp=parts.plain_mlp(at.sub("mlp"), c, "dense_h_to_4h", "dense_4h_to_h", bias=True),
        )

    norm = w.layer_norm("model.final_layernorm", c.hidden_size, c.layer_norm_eps)
    return parts.decoder(w, c, block, norm, ropes=[rope])
