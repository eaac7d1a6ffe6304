"""OLMo 1, 2 and 3.

model_type: olmo (layer norms without weights, projections that may be clipped; Groeneveld et al.
2024), olmo2 (RMS norms after each half, and of the whole q and k; OLMo 2024), olmo3 (windows in
three layers of four, whose positions are never scaled; 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rbee_worker.layers.blocks import PostNorm, PreNorm
from rbee_worker.layers.norm import LayerNorm, RMSNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig, positive
from rbee_worker.models.weights import Weights


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """OLMo's own keys; `sliding_window_pattern` counts from one full layer to the next."""

    layer_norm_eps: float = 1e-5  # no key of config.json, but of GGUF files
    rms_norm_eps: float = 1e-5
    attention_bias: bool = False
    clip_qkv: float | None = None
    sliding_window: int | None = None
    sliding_window_pattern: int = 1
    layer_types: list[str] | None = None
    rope_parameters: dict[str, Any] | None = None


def build_first(c: Config, w: Weights) -> Decoder:
    """OLMo 1. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    rope = parts.rope_of(w, c)
    norm = LayerNorm(w.ops, None, None, c.layer_norm_eps)

    def block(at: Weights, layer: int) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=norm,
            attention=parts.attention(
                at.sub("self_attn"),
                c,
                rope=rope,
                bias=c.attention_bias,
                out_bias=c.attention_bias,
                clip=c.clip_qkv,
            ),
            mlp_norm=norm,
            mlp=parts.gated_mlp(at.sub("mlp"), c),
        )

    return parts.decoder(w, c, block, norm, ropes=[rope])


def build(c: Config, w: Weights) -> Decoder:
    """OLMo 2 and 3. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    positive("config", sliding_window_pattern=c.sliding_window_pattern)
    types = c.layer_types or parts.every(c.sliding_window_pattern, c.num_hidden_layers)
    window = parts.windows(types, c.num_hidden_layers, c.sliding_window)
    plain = parts.typed_rope(c, {"rope_theta": c.rope_theta})
    ropes = parts.typed_ropes(c, c.rope_parameters, full=parts.rope_of(w, c), sliding=plain)

    def block(at: Weights, layer: int) -> PostNorm:
        mix = at.sub("self_attn")

        def norm(part: str, heads: int) -> RMSNorm:
            return mix.rms_norm(f"{part}_norm", heads * c.width, c.rms_norm_eps)

        return PostNorm(
            ops=w.ops,
            attention=parts.attention(
                mix,
                c,
                rope=ropes[types[layer]],
                window=window[layer],
                bias=c.attention_bias,
                out_bias=c.attention_bias,
                qk_norm=norm,
            ),
            attention_after=_norm(at, c, "post_attention_layernorm"),
            mlp=parts.gated_mlp(at.sub("mlp"), c),
            mlp_after=_norm(at, c, "post_feedforward_layernorm"),
        )

    return parts.decoder(
        w, c, block, _norm(w, c, "model.norm"), ropes=[ropes[kind] for kind in types]
    )


def _norm(w: Weights, c: Config, name: str) -> RMSNorm:
    return w.rms_norm(name, c.hidden_size, c.rms_norm_eps)
