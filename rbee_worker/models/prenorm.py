"""Llama's shape, for all families that have it: rotary attention and a feed-forward block, each
with an RMSNorm before it and a residual around it. The caller supplies the feed-forward block.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import FeedForward, PreNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.tower import Tower
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """The key added to those of every decoder."""

    rms_norm_eps: float = 1e-6


@dataclass(frozen=True)
class Multipliers:
    """Factors on the embeddings, on each half's output before it is added, and on the logits."""

    embedding: float = 1.0
    residual: float = 1.0
    logits: float = 1.0


def multipliers(embedding: float, residual: float, scaling: float) -> Multipliers:
    """Granite's multipliers; `scaling` divides the logits. Raises CheckpointError."""
    if scaling == 0:
        raise CheckpointError("config: logits_scaling is 0.", fix="download the config again.")
    return Multipliers(embedding, residual, 1 / scaling)


def build(
    c: Config,
    w: Weights,
    feed_forward: Callable[[Weights, LayerPlan], FeedForward],
    *,
    bias: bool = False,
    out_bias: bool = False,
    interleaved: bool = False,
    qk_norm: Callable[[Weights, DecoderConfig, float], parts.HeadNorm] | None = None,
    qk_after: Callable[[Weights, DecoderConfig, float], parts.HeadNorm] | None = None,
    clip: float | None = None,
    attention_scale: float | None = None,
    by: Multipliers = Multipliers(),
    tower: Tower | None = None,
    skip: Mapping[str, str] | None = None,
) -> Decoder:
    """The model. feed_forward(cursor at a layer, the layer's plan): the block after attention.

    bias: of q, k and v; qk_norm: `parts.head_norms` or `parts.whole_norms`; qk_after: the norms of
    q and k after they have rotated; clip, attention_scale: see `parts.attention`; tower, skip: see
    `parts.decoder`. Raises CheckpointError, UnsupportedModel.
    """
    parts.check(c)
    if c.partial_rotary_factor != 1.0:
        raise UnsupportedModel(
            f"config: partial_rotary_factor is {c.partial_rotary_factor}, but this architecture "
            "rotates whole heads.",
            fix="check model_type: this config belongs to another architecture.",
        )
    plans = plan_layers(c, parts.rope_of(w, c, interleaved=interleaved))

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        mix = at.sub("self_attn")
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", c.hidden_size, c.rms_norm_eps),
            attention=parts.attention(
                mix,
                c,
                layer=layer,
                bias=bias,
                out_bias=out_bias,
                scale=attention_scale,
                qk_norm=None if qk_norm is None else qk_norm(mix, c, c.rms_norm_eps),
                qk_after=None if qk_after is None else qk_after(mix, c, c.rms_norm_eps),
                clip=clip,
            ),
            mlp_norm=at.rms_norm("post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
            mlp=feed_forward(at, layer),
            residual_scale=by.residual,
        )

    return parts.decoder(
        w,
        c,
        plans,
        block,
        w.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps),
        embed_scale=by.embedding,
        logits_scale=by.logits,
        tower=tower,
        skip=skip,
    )
