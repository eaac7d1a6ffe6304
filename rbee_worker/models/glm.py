"""GLM-4-9b and GLM-4-0414: half of each head rotates, in adjacent pairs.

model_type: glm (GLM-4-9b under Hugging Face's names, to which those of ChatGLM 2, 3 and CodeGeeX4
are mapped; Zeng et al. 2024), glm4 (GLM-4-0414 and Z1: also norms after each half; Zhipu 2025).
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.layers.blocks import PreNorm, Sandwich
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """GLM's own keys."""

    num_key_value_heads: int | None = 2
    head_dim: int | None = 128
    max_position_embeddings: int = 131072
    partial_rotary_factor: float = 0.5
    rms_norm_eps: float = 1.5625e-7
    attention_bias: bool = True


@dataclass(frozen=True, kw_only=True)
class Glm4(Config):
    """The same keys; here null is not a valid value for these."""

    num_key_value_heads: int = 2
    head_dim: int = 128


def build(c: Config, w: Weights) -> Decoder:
    """glm: norms before each half. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    plans = plan_layers(c, parts.rope_of(w, c, interleaved=True))

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=_norm(at, c, "input_layernorm"),
            attention=parts.attention(at.sub("self_attn"), c, layer=layer, bias=c.attention_bias),
            mlp_norm=_norm(at, c, "post_attention_layernorm"),
            mlp=parts.gated_mlp(at.sub("mlp"), c),
        )

    return parts.decoder(w, c, plans, block, _norm(w, c, "model.norm"))


def build_sandwich(c: Glm4, w: Weights) -> Decoder:
    """glm4: norms around each half. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    plans = plan_layers(c, parts.rope_of(w, c, interleaved=True))

    def block(at: Weights, layer: LayerPlan) -> Sandwich:
        return Sandwich(
            ops=w.ops,
            attention_norm=_norm(at, c, "input_layernorm"),
            attention=parts.attention(at.sub("self_attn"), c, layer=layer, bias=c.attention_bias),
            attention_after=_norm(at, c, "post_self_attn_layernorm"),
            mlp_norm=_norm(at, c, "post_attention_layernorm"),
            mlp=parts.gated_mlp(at.sub("mlp"), c),
            mlp_after=_norm(at, c, "post_mlp_layernorm"),
        )

    return parts.decoder(w, c, plans, block, _norm(w, c, "model.norm"))


def _norm(w: Weights, c: Config, name: str) -> RMSNorm:
    return w.rms_norm(name, c.hidden_size, c.rms_norm_eps)
