"""OLMo 1, 2 and 3.

model_type: olmo (layer norms without weights, projections that may be clipped; Groeneveld et al.
2024), olmo2 (RMS norms after each half, and over all heads of q and k; OLMo 2024), olmo3 (windows
in three of four layers, whose rotary positions are never scaled; 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rbee_worker.layers.blocks import PreNorm
from rbee_worker.layers.norm import LayerNorm
from rbee_worker.models import parts, postnorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig, MixedConfig
from rbee_worker.models.layer_plan import LayerPlan, every, plan_layers
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """OLMo 1's own keys; only GGUF files have `layer_norm_eps`, config.json does not."""

    layer_norm_eps: float = 1e-5
    attention_bias: bool = False
    clip_qkv: float | None = None


@dataclass(frozen=True, kw_only=True)
class Olmo2(postnorm.Config):
    """OLMo 2's own key."""

    attention_bias: bool = False


@dataclass(frozen=True, kw_only=True)
class Olmo3(MixedConfig, Olmo2):
    """OLMo 3's own keys; `rope_parameters` has one entry per layer type."""

    rope_theta: float = 5e5
    rope_parameters: dict[str, Any] | None = None
    sliding_window: int | None = 4096

    @property
    def pattern(self) -> Sequence[str]:
        return every(4, self.num_hidden_layers)


def build(c: Config, w: Weights) -> Decoder:
    """OLMo 1. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    norm = LayerNorm(w.ops, None, None, c.layer_norm_eps)

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=norm,
            attention=parts.attention(
                at.sub("self_attn"),
                c,
                layer=layer,
                bias=c.attention_bias,
                out_bias=c.attention_bias,
                clip=c.clip_qkv,
            ),
            mlp_norm=norm,
            mlp=parts.gated_mlp(at.sub("mlp"), c),
        )

    return parts.decoder(w, c, plan_layers(c, parts.rope_of(w, c)), block, norm)


def build_second(c: Olmo2, w: Weights) -> Decoder:
    """OLMo 2. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    plans = plan_layers(c, parts.rope_of(w, c))
    return postnorm.build(c, w, plans, parts.whole_norms, bias=c.attention_bias)


def build_third(c: Olmo3, w: Weights) -> Decoder:
    """OLMo 3. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    ropes = parts.typed_ropes(w, c, c.rope_parameters, local=c.rope_theta)
    plans = plan_layers(c, ropes)
    return postnorm.build(c, w, plans, parts.whole_norms, bias=c.attention_bias)
