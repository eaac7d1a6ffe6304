"""Phi-1, Phi-1.5 and Phi-2: attention and MLP side by side, layer norms, biases everywhere.

model_type: phi (Gunasekar et al. 2023; Li et al. 2023). A part of each head rotates.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.blocks import Parallel
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Phi's own keys."""

    layer_norm_eps: float = 1e-5
    qk_layernorm: bool = False


def build(c: Config, w: Weights) -> Decoder:
    """The model, from weights at the cursor `w`. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    rope = parts.rope_of(w, c)

    def block(at: Weights, layer: int) -> Parallel:
        mix = at.sub("self_attn")

        def norm(part: str, heads: int) -> LayerNorm:
            return mix.layer_norm(f"{part}_layernorm", c.width, c.layer_norm_eps, heads=heads)

        return Parallel(
            ops=w.ops,
            norm=at.layer_norm("input_layernorm", c.hidden_size, c.layer_norm_eps),
            attention=parts.attention(
                mix,
                c,
                rope=rope,
                bias=True,
                out="dense",
                out_bias=True,
                qk_norm=norm if c.qk_layernorm else None,
            ),
            mlp=parts.plain_mlp(at.sub("mlp"), c, "fc1", "fc2", bias=True),
        )

    norm = w.layer_norm("model.final_layernorm", c.hidden_size, c.layer_norm_eps)
    return parts.decoder(w, c, block, norm, ropes=[rope], head_bias=True)
