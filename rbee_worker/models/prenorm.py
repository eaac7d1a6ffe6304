"""Llama's shape, for all who have it: RMSNorm, rotary attention and a feed-forward block, each
read through a norm and added to the residual. What feeds forward is the caller's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import FeedForward, PreNorm
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Keys beyond those of every decoder; `qkv_bias`, `qk_norm` and `rope_pairs` are traits of a
    whole family, which the table of architectures sets."""

    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_pairs: bool = False  # rotary pairs are neighbours
    sliding_window: int | None = None
    use_sliding_window: bool = True
    max_window_layers: int = 0  # layers before this one have no window
    layer_types: list[str] | None = None
    no_rope_layers: list[int] | None = None  # 0: this layer has no positions
    no_rope_layer_interval: int = 0
    embedding_multiplier: float = 1.0
    attention_multiplier: float | None = None
    residual_multiplier: float = 1.0
    logits_scaling: float = 1.0


def build(c: Config, w: Weights, feed_forward: Callable[[Weights, int], FeedForward]) -> Decoder:
    """The model; feed_forward(cursor at a layer, its number) is what stands after attention.

    Raises CheckpointError, UnsupportedModel.
    """
    parts.check(c)
    if c.partial_rotary_factor != 1.0:
        raise UnsupportedModel(
            f"config: partial_rotary_factor is {c.partial_rotary_factor}, but this architecture "
            "rotates whole heads.",
            fix="check model_type: this config belongs to another architecture.",
        )
    if c.logits_scaling == 0:
        raise CheckpointError("config: logits_scaling is 0.", fix="download the config again.")
    rope = parts.rope_of(w, c, interleaved=c.rope_pairs)
    rotates = _rotates(c)
    window = _windows(c, rotates)

    def block(at: Weights, layer: int) -> PreNorm:
        mix = at.sub("self_attn")

        def head_norm(part: str, heads: int) -> RMSNorm:
            return mix.rms_norm(f"{part}_norm", c.width, c.rms_norm_eps, heads=heads)

        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", c.hidden_size, c.rms_norm_eps),
            attention=parts.attention(
                mix,
                c,
                rope=rope if rotates[layer] else None,
                window=window[layer],
                bias=c.attention_bias or c.qkv_bias,
                out_bias=c.attention_bias,
                scale=c.attention_multiplier,
                qk_norm=head_norm if c.qk_norm else None,
            ),
            mlp_norm=at.rms_norm("post_attention_layernorm", c.hidden_size, c.rms_norm_eps),
            mlp=feed_forward(at, layer),
            residual_scale=c.residual_multiplier,
        )

    return parts.decoder(
        w,
        c,
        block,
        w.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps),
        ropes=[rope],
        embed_scale=c.embedding_multiplier,
        logits_scale=1 / c.logits_scaling,
    )


def _rotates(c: Config) -> list[bool]:
    """Has a layer positions? `no_rope_layers` says it outright, the interval by counting."""
    every = c.no_rope_layer_interval
    if c.no_rope_layers is None:
        return [not every or (i + 1) % every != 0 for i in range(c.num_hidden_layers)]
    if len(c.no_rope_layers) != c.num_hidden_layers:
        raise CheckpointError(
            f"config: no_rope_layers names {len(c.no_rope_layers)} layers, "
            f"num_hidden_layers says {c.num_hidden_layers}.",
            fix="download the checkpoint's config again.",
        )
    return [bool(x) for x in c.no_rope_layers]


def _windows(c: Config, rotates: list[bool]) -> list[int | None]:
    """By `layer_types`; without them, layers from max_window_layers on have the window, and where
    some layers have no positions, only those."""
    window = c.sliding_window if c.use_sliding_window else None
    types = c.layer_types
    if types is None or window is None:
        bare = [not r or all(rotates) for r in rotates]
        on = [window is not None and i >= c.max_window_layers and bare[i] for i in range(len(bare))]
        types = ["sliding_attention" if x else "full_attention" for x in on]
    return parts.windows(types, c.num_hidden_layers, window)
