"""Gemma 1, 2 and 3 (text): norms centred on 1, scaled embeddings, GeGLU, tied embeddings.

model_type: gemma (Gemma Team 2024a), gemma2 (also norms after each half, soft caps, windows in
every second layer; 2024b), gemma3_text (norms of each head's q and k, full attention in every sixth
layer, another rotary base in the others; 2025). gemma3, with a SigLIP tower, is read as gemma3_text
with the keys of its tower: the mean of a square of patches is normed and mapped to one token, and
tokens of a picture see each other. A gemma3_text whose tokens all see later ones is an encoder
(EmbeddingGemma).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.blocks import PreNorm, Sandwich
from rbee_worker.layers.connector import MeanOfPatches
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.models import parts, siglip
from rbee_worker.models.base import Decoder
from rbee_worker.models.block import Block
from rbee_worker.models.config import FULL, SLIDING, DecoderConfig, MixedConfig, positive
from rbee_worker.models.encoder import Encoder
from rbee_worker.models.layer_plan import LayerPlan, every, plan_layers
from rbee_worker.models.tower import Tower
from rbee_worker.models.weights import Weights

_SIGHT = r"(vision_tower|multi_modal_projector)\..*"
_UNSEEN = {_SIGHT: siglip.UNSEEN}
_UNUSED = {r"vision_tower\.head\..*": "makes one vector of a picture, which has no use here"}


@dataclass(frozen=True, kw_only=True)
class Config(DecoderConfig):
    """Gemma 1's own keys; old files give the activation under either name."""

    num_key_value_heads: int = 16
    head_dim: int = 256
    hidden_act: str = "gelu_pytorch_tanh"
    hidden_activation: str | None = None
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    use_bidirectional_attention: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Gemma2(MixedConfig):
    """Gemma 2's own keys."""

    num_key_value_heads: int = 4
    head_dim: int = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: int = 8192
    tie_word_embeddings: bool = True
    rms_norm_eps: float = 1e-6
    attention_bias: bool = False
    use_bidirectional_attention: bool | None = None
    query_pre_attn_scalar: float | None = 256.0  # None means the width of a head
    attn_logit_softcapping: float | None = 50.0
    final_logit_softcapping: float | None = 30.0
    sliding_window: int | None = 4096

    @property
    def pattern(self) -> Sequence[str]:
        return every(2, self.num_hidden_layers)


@dataclass(frozen=True, kw_only=True)
class Gemma3(Gemma2):
    """Gemma 3's own keys. `sliding_window_pattern`: every nth layer has full attention;
    `rope_parameters` has one entry per layer type."""

    max_position_embeddings: int = 131072
    use_bidirectional_attention: bool | None = False
    rope_theta: float = 1e6
    rope_local_base_freq: float = 1e4
    rope_parameters: dict[str, Any] | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    sliding_window_pattern: int = 6
    vision_config: dict[str, Any] | None = None
    mm_tokens_per_image: int | None = 256
    image_mean: list[float] | None = None
    image_std: list[float] | None = None

    @property
    def pattern(self) -> Sequence[str]:
        nth = 1 if self.window is None else self.sliding_window_pattern
        return every(nth, self.num_hidden_layers)

    @property
    def lengths(self) -> Mapping[str, int | None]:
        """Where a token sees later ones, half of the window lies to each side of it."""
        window = self.window
        if window is not None and self.use_bidirectional_attention:
            window = window // 2 + 1
        return {FULL: None, SLIDING: window}


def build(c: Config, w: Weights) -> Decoder:
    """Gemma 1. Raises CheckpointError, UnsupportedModel."""
    _check(c)
    # Gemma 1's configs say gelu, but the model was trained with the tanh form.
    act = "gelu_pytorch_tanh" if c.hidden_act == "gelu" else c.hidden_act
    if c.hidden_activation not in (None, act):
        raise UnsupportedModel(
            f"config: hidden_act is {c.hidden_act!r}, hidden_activation {c.hidden_activation!r}.",
            fix="remove the one that the model was not trained with.",
        )
    plans, bias = plan_layers(c, parts.rope_of(w, c)), c.attention_bias

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=_norm(at, c, "input_layernorm"),
            attention=parts.attention(
                at.sub("self_attn"), c, layer=layer, bias=bias, out_bias=bias
            ),
            mlp_norm=_norm(at, c, "post_attention_layernorm"),
            mlp=parts.gated_mlp(at.sub("mlp"), c, act=act),
        )

    return _decoder(w, c, plans, block)


def build_second(c: Gemma2, w: Weights) -> Decoder:
    """Gemma 2. Raises CheckpointError, UnsupportedModel."""
    _check(c)
    return _sandwiches(w, c, plan_layers(c, parts.rope_of(w, c)))


def build_third(c: Gemma3, w: Weights) -> Decoder:
    """Gemma 3. Raises CheckpointError, UnsupportedModel."""
    parts.check(c)
    if c.use_bidirectional_attention and c.vision_config is not None:
        raise UnsupportedModel(
            "config: use_bidirectional_attention is true, beside a vision_config: this model makes "
            "vectors of texts and pictures.",
            fix="use a model that makes vectors of texts alone.",
        )
    if c.attn_logit_softcapping is not None:
        raise UnsupportedModel(
            f"config: attn_logit_softcapping is {c.attn_logit_softcapping}; Gemma 3 has none.",
            fix="remove the key, or name the architecture that the model was trained as.",
        )
    ropes = parts.typed_ropes(w, c, c.rope_parameters, local=c.rope_local_base_freq)
    tower: Tower | None = None
    notes: tuple[str, ...] = ()
    if w.ops.sees and c.vision_config is not None:
        tower, notes = _tower(c, w) if _has_tower(w) else (None, (_NO_TOWER,))
    model = _sandwiches(w, c, plan_layers(c, ropes), head_norms=True, tower=tower)
    return replace(model, notes=model.notes + notes)


_NO_TOWER = "no file has weights of the vision tower of config.json: pictures are not read"


def _has_tower(w: Weights) -> bool:
    """Text halves are published alone, with the config of the whole."""
    return w.beside("multi_modal_projector").has("mm_soft_emb_norm.weight")


def _tower(c: Gemma3, w: Weights) -> tuple[Tower, tuple[str, ...]]:
    vision, notes = siglip.read_vision(siglip.Vision, c.vision_config or {})
    tokens = c.mm_tokens_per_image or 0
    positive("config", mm_tokens_per_image=tokens)
    merge = vision.image_size // vision.patch_size // math.isqrt(tokens)
    siglip.check_squares(vision, merge)
    dim, at = vision.hidden_size, w.beside("multi_modal_projector")
    # it is kept as [in, out], other maps as [out, in]
    turned = floats(at.floats("mm_input_projection_weight", (dim, c.hidden_size)))
    matrix = w.ops.matrix([packed_floats(turned.reshape(dim, c.hidden_size).T.copy())])
    connector = MeanOfPatches(
        ops=w.ops,
        count=merge**2,
        width=dim,
        norm=at.rms_norm("mm_soft_emb_norm", dim, vision.layer_norm_eps, centre=1.0),
        out=Linear(w.ops, matrix, None, (c.hidden_size,)),
    )
    tower = siglip.tower(
        w.beside("vision_tower"),
        vision,
        connector,
        merge=merge,
        width=c.hidden_size,
        mean=siglip.colours(c.image_mean, "image_mean"),
        std=siglip.colours(c.image_std, "image_std"),
        whole=True,
    )
    return tower, notes


def _sandwiches(
    w: Weights,
    c: Gemma2,
    plans: Sequence[LayerPlan],
    *,
    head_norms: bool = False,
    tower: Tower | None = None,
) -> Decoder:
    divisor = c.width if c.query_pre_attn_scalar is None else c.query_pre_attn_scalar
    positive("config", query_pre_attn_scalar=divisor)
    causal = not c.use_bidirectional_attention

    def block(at: Weights, layer: LayerPlan) -> Sandwich:
        mix = at.sub("self_attn")

        def head_norm(part: str, heads: int) -> RMSNorm:
            return mix.rms_norm(f"{part}_norm", c.width, c.rms_norm_eps, heads=heads, centre=1.0)

        return Sandwich(
            ops=w.ops,
            attention_norm=_norm(at, c, "input_layernorm"),
            attention=parts.attention(
                mix,
                c,
                layer=layer,
                bias=c.attention_bias,
                out_bias=c.attention_bias,
                scale=divisor**-0.5,
                softcap=c.attn_logit_softcapping,
                qk_norm=head_norm if head_norms else None,
                causal=causal,
            ),
            attention_after=_norm(at, c, "post_attention_layernorm"),
            mlp_norm=_norm(at, c, "pre_feedforward_layernorm"),
            mlp=parts.gated_mlp(at.sub("mlp"), c, act=c.hidden_activation),
            mlp_after=_norm(at, c, "post_feedforward_layernorm"),
        )

    return _decoder(w, c, plans, block, softcap=c.final_logit_softcapping, tower=tower)


def _norm(w: Weights, c: Config | Gemma2, name: str) -> RMSNorm:
    return w.rms_norm(name, c.hidden_size, c.rms_norm_eps, centre=1.0)


def _decoder(
    w: Weights,
    c: Config | Gemma2,
    plans: Sequence[LayerPlan],
    block: Callable[[Weights, LayerPlan], Block],
    *,
    softcap: float | None = None,
    tower: Tower | None = None,
) -> Decoder:
    return parts.decoder(
        w,
        c,
        plans,
        block,
        _norm(w, c, "model.norm"),
        embed_scale=c.hidden_size**0.5,
        logits_softcap=softcap,
        skip=_UNSEEN if tower is None else _UNUSED,
        tower=tower,
        made=Encoder if c.use_bidirectional_attention else Decoder,
    )


def _check(c: Config | Gemma2) -> None:
    parts.check(c)
    if c.use_bidirectional_attention:
        raise UnsupportedModel(
            "config: use_bidirectional_attention is true: this model encodes text, which is not "
            "supported of Gemma 1 and 2.",
            fix="use a generative model, or one of Gemma 3 for vectors.",
        )
