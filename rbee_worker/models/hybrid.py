"""Hybrids of Mamba 2 and attention with the keys of Bamba: layers x + s * mix(norm x), then
x + s * mlp(norm x), where a layer mixes either way.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rbee_worker.errors import CheckpointError
from rbee_worker.layers.blocks import FeedForward, Mixer, PreNorm
from rbee_worker.models import headed_space, parts, prenorm
from rbee_worker.models.base import Decoder
from rbee_worker.models.config import FULL, RECURRENT
from rbee_worker.models.layer_plan import LayerPlan, plan_layers
from rbee_worker.models.weights import Weights

_PLAIN = prenorm.Multipliers()
# What published files call the kinds of layers -> what transformers does.
_WORDS = {"attention": FULL, "mamba": RECURRENT}


@dataclass(frozen=True, kw_only=True)
class Config(prenorm.Config):
    """The keys of the recurrent layers, and of positions."""

    attention_bias: bool = False
    mamba_d_ssm: int | None = None  # columns of the recurrence; None: mamba_expand times the width
    mamba_n_heads: int = 128
    mamba_d_head: int | str | None = "auto"
    mamba_n_groups: int = 1
    mamba_d_state: int = 256
    mamba_d_conv: int = 4
    mamba_expand: int = 2
    mamba_conv_bias: bool = True
    mamba_proj_bias: bool = False
    time_step_limit: list[float] | None = None  # None: steps of any size

    @property
    def inner(self) -> int:
        """Columns of the recurrence."""
        if self.mamba_d_ssm is None:
            return self.mamba_expand * self.hidden_size
        return self.mamba_d_ssm

    @property
    def columns(self) -> int:
        """Columns of a head of the recurrence. Raises CheckpointError."""
        if isinstance(self.mamba_d_head, int):
            return self.mamba_d_head
        if self.mamba_d_head not in ("auto", None):
            raise CheckpointError(
                f"config: mamba_d_head is {self.mamba_d_head!r}, not a number or auto.",
                fix="download the checkpoint's config again.",
            )
        return self.inner // self.mamba_n_heads if self.mamba_n_heads else 0

    @property
    def lengths(self) -> Mapping[str, int | None]:
        return {FULL: None, RECURRENT: None}

    @property
    def turns(self) -> bool:
        """Whether layers with attention have rotary positions."""
        return True

    @property
    def rotates(self) -> Sequence[object]:
        return [self.turns and kind == FULL for kind in self.kinds]


def named(layer_types: Sequence[str] | None, layers: int) -> Sequence[str]:
    """The kinds of a config's `layer_types`; without them, all layers are recurrent."""
    if layer_types is None:
        return [RECURRENT] * layers
    return [_WORDS.get(kind, kind) for kind in layer_types]


def sizes(c: Config) -> headed_space.Sizes:
    """The sizes of the recurrent layers. Raises CheckpointError, UnsupportedModel."""
    found = headed_space.Sizes(
        dim=c.hidden_size,
        inner=c.inner,
        heads=c.mamba_n_heads,
        groups=c.mamba_n_groups,
        states=c.mamba_d_state,
        kernel=c.mamba_d_conv,
    )
    headed_space.check(found, c.columns, c.time_step_limit)
    return found


def either(
    c: Config, w: Weights, *, scale: float | None = None
) -> Callable[[Weights, LayerPlan], Mixer]:
    """Makes a layer's mixer, which is recurrent or attention; scale: of attention's scores.

    Raises CheckpointError, UnsupportedModel.
    """
    space, bias = sizes(c), c.attention_bias

    def mixer(at: Weights, layer: LayerPlan) -> Mixer:
        if layer.kind == RECURRENT:
            return headed_space.headed_space(
                at.sub("mamba"),
                space,
                act=c.hidden_act,
                eps=c.rms_norm_eps,
                bias=c.mamba_proj_bias,
                out_bias=c.mamba_proj_bias,
                conv_bias=c.mamba_conv_bias,
            )
        mix = at.sub("self_attn")
        return parts.attention(mix, c, layer=layer, bias=bias, out_bias=bias, scale=scale)

    return mixer


def build(
    c: Config,
    w: Weights,
    mixer: Callable[[Weights, LayerPlan], Mixer],
    feed_forward: Callable[[Weights, LayerPlan], FeedForward],
    *,
    mlp_norm: str = "pre_ff_layernorm",
    norm: str = "model.final_layernorm",
    by: prenorm.Multipliers = _PLAIN,
) -> Decoder:
    """The model. mixer, feed_forward (cursor at a layer, the layer's plan): its halves; mlp_norm:
    the name of the norm before the second; norm: of the last norm.

    Raises CheckpointError, UnsupportedModel.
    """
    parts.check(c)
    plans = plan_layers(c, parts.rope_of(w, c))

    def block(at: Weights, layer: LayerPlan) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=at.rms_norm("input_layernorm", c.hidden_size, c.rms_norm_eps),
            attention=mixer(at, layer),
            mlp_norm=at.rms_norm(mlp_norm, c.hidden_size, c.rms_norm_eps),
            mlp=feed_forward(at, layer),
            residual_scale=by.residual,
        )

    return parts.decoder(
        w,
        c,
        plans,
        block,
        w.rms_norm(norm, c.hidden_size, c.rms_norm_eps),
        embed_scale=by.embedding,
        logits_scale=by.logits,
    )
