"""Gemma 1, 2 and 3 (text): norms around 1, scaled embeddings, GeGLU; tied.

model_type: gemma (Gemma Team 2024a), gemma2 (norms after each half as well, soft caps, windows in
every second layer; 2024b), gemma3_text (norms of each head's q and k, one full layer in six, and
another rotary base in the others; 2025). gemma3 is the model with a vision tower, of which the
text half is read under that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.blocks import PreNorm, Sandwich
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.models import parts
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import DecoderConfig, positive
from rbee_worker.models.weights import Weights
from rbee_worker.ops import RopeSpec

IMAGES = {r"(vision_tower|multi_modal_projector)\..*": "images are not read"}


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Gemma's own keys. `qk_norm` is a trait of Gemma 3, which the table of architectures sets;
    `sliding_window_pattern` counts the layers from one full layer to the next."""

    rms_norm_eps: float = 1e-6
    hidden_activation: str = "gelu_pytorch_tanh"
    attention_bias: bool = False
    use_bidirectional_attention: bool = False
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    sliding_window: int | None = None
    sliding_window_pattern: int = 1
    layer_types: list[str] | None = None
    rope_parameters: dict[str, Any] | None = None  # one entry for each layer type
    rope_local_base_freq: float | None = None
    qk_norm: bool = False


def build_first(c: Config, w: Weights) -> Decoder:
    """Gemma 1. Raises CheckpointError, UnsupportedModel."""
    _check(c)
    rope = parts.rope_of(w, c)
    # What Gemma 1's configs call gelu was trained as the tanh form.
    act = "gelu_pytorch_tanh" if c.hidden_act == "gelu" else c.hidden_act

    def block(at: Weights, layer: int) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=_norm(at, c, "input_layernorm"),
            attention=parts.attention(
                at.sub("self_attn"), c, rope=rope, bias=c.attention_bias, out_bias=c.attention_bias
            ),
            mlp_norm=_norm(at, c, "post_attention_layernorm"),
            mlp=parts.gated_mlp(at.sub("mlp"), c, act=act),
        )

    return _decoder(w, c, block, [rope])


def build(c: Config, w: Weights) -> Decoder:
    """Gemma 2 and 3. Raises CheckpointError, UnsupportedModel."""
    _check(c)
    types = c.layer_types or parts.every(c.sliding_window_pattern, c.num_hidden_layers)
    window = parts.windows(types, c.num_hidden_layers, c.sliding_window)
    ropes = _ropes(w, c)

    def block(at: Weights, layer: int) -> Sandwich:
        mix = at.sub("self_attn")

        def head_norm(part: str, heads: int) -> RMSNorm:
            return mix.rms_norm(f"{part}_norm", c.width, c.rms_norm_eps, heads=heads, centre=1.0)

        return Sandwich(
            ops=w.ops,
            attention_norm=_norm(at, c, "input_layernorm"),
            attention=parts.attention(
                mix,
                c,
                rope=ropes[types[layer]],
                window=window[layer],
                bias=c.attention_bias,
                out_bias=c.attention_bias,
                scale=(c.query_pre_attn_scalar or c.width) ** -0.5,
                softcap=c.attn_logit_softcapping,
                qk_norm=head_norm if c.qk_norm else None,
            ),
            attention_after=_norm(at, c, "post_attention_layernorm"),
            mlp_norm=_norm(at, c, "pre_feedforward_layernorm"),
            mlp=parts.gated_mlp(at.sub("mlp"), c, act=c.hidden_activation),
            mlp_after=_norm(at, c, "post_feedforward_layernorm"),
        )

    return _decoder(w, c, block, [ropes[t] for t in types])


def _ropes(w: Weights, c: Config) -> dict[str, RopeSpec]:
    """One table for each layer type; in older configs layers with a window have their own base,
    which is never scaled."""
    full = local = parts.rope_of(w, c)
    if c.rope_local_base_freq is not None:
        local = parts.typed_rope(c, {"rope_theta": c.rope_local_base_freq})
    return parts.typed_ropes(c, c.rope_parameters, full=full, sliding=local)


def _norm(w: Weights, c: Config, name: str) -> RMSNorm:
    return w.rms_norm(name, c.hidden_size, c.rms_norm_eps, centre=1.0)


def _decoder(w: Weights, c: Config, block: Any, ropes: list[RopeSpec]) -> Decoder:
    return parts.decoder(
        w,
        c,
        block,
        w.rms_norm("model.norm", c.hidden_size, c.rms_norm_eps, centre=1.0),
        ropes=ropes,
        embed_scale=c.hidden_size**0.5,
        logits_softcap=c.final_logit_softcapping,
        skip=IMAGES,
    )


def _check(c: Config) -> None:
    parts.check(c)
    positive("config", sliding_window_pattern=c.sliding_window_pattern)
    if c.use_bidirectional_attention:
        raise UnsupportedModel(
            "config: use_bidirectional_attention is true: this model encodes text, and does not "
            "write it.",
            fix="use a generative model.",
        )
