"""What families share when they read a checkpoint: functions that build layers from its values."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rbee_worker.checkpoint.ops import packed_floats
from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.alibi import slopes
from rbee_worker.layers.attention import Attention
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.mlp import GatedMLP, PlainMLP
from rbee_worker.layers.rope import rope_spec
from rbee_worker.models.base import Decoder
from rbee_worker.models.block import Block
from rbee_worker.models.config import (
    FULL,
    SLIDING,
    DecoderConfig,
    StackConfig,
    activation,
    positive,
)
from rbee_worker.models.layer_plan import LayerPlan
from rbee_worker.models.mtp import MakesLayer
from rbee_worker.models.tower import Tower
from rbee_worker.models.weights import Weights
from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Array
from rbee_worker.state.specs import PagedKV, StepKV

_DERIVED = {r".*\.rotary_emb\.inv_freq": "derived from the config"}


@dataclass(frozen=True)
class Names:
    """The checkpoint's names for what lies outside the layers."""

    embed: str = "model.embed_tokens"
    layers: str = "model.layers"
    head: str = "lm_head"
    positions: str = ""


NAMES = Names()
# Called with "q" or "k" and the number of heads: the norm of that projection.
HeadNorm = Callable[[str, int], Callable[[Array], Array]]


def head_norms(w: Weights, c: DecoderConfig, eps: float) -> HeadNorm:
    """q_norm and k_norm at the cursor: one RMS norm, whose weights all heads share."""
    return lambda part, heads: w.rms_norm(f"{part}_norm", c.width, eps, heads=heads)


def whole_norms(w: Weights, c: DecoderConfig, eps: float) -> HeadNorm:
    """q_norm and k_norm at the cursor: RMS norms over the columns of all heads."""
    return lambda part, heads: w.rms_norm(f"{part}_norm", heads * c.width, eps)


def attention(
    w: Weights,
    c: DecoderConfig,
    *,
    layer: LayerPlan,
    bias: bool = False,
    out_bias: bool = False,
    out: str = "o_proj",
    scale: float | None = None,
    softcap: float | None = None,
    qk_norm: HeadNorm | None = None,
    qk_after: HeadNorm | None = None,
    fused: str = "qkv_proj",
    groups: int = 1,
    clip: float | None = None,
    alibi_slopes: Array | None = None,
    sinks: Array | None = None,
    lanes: int = 1,
    causal: bool = True,
) -> Attention:
    """Attention from q_proj, k_proj, v_proj (or `fused`, which has all three) and `out` at the
    cursor. layer: its window, or none.

    scale None: 1 / sqrt(head width). qk_norm("q" or "k", heads): the norm of that projection before
    it rotates; qk_after: the same after it has rotated. groups: in `fused`, q, k and v of each
    group of heads are adjacent. lanes: see `PagedKV`. causal: False: as in an encoder, a query sees
    later keys too, and a window reaches as far to both sides. Raises CheckpointError.
    """
    heads, width = c.num_attention_heads, c.width
    assert layer.chunk is None
    kv = c.kv_heads * width
    qkv = w.linear(
        ("q_proj", "k_proj", "v_proj"),
        c.hidden_size,
        (heads * width, kv, kv),
        bias=bias,
        fused=fused,
    )
    return Attention(
        ops=w.ops,
        qkv=replace(qkv, widths=tuple(n // groups for n in qkv.widths)),
        out=w.linear(out, heads * width, c.hidden_size, bias=out_bias),
        where=w.states.add(
            PagedKV(c.kv_heads, width, width, layer.window, lanes)
            if causal
            else StepKV(c.kv_heads, width, width)
        ),
        heads=heads,
        kv_heads=c.kv_heads,
        scale=width**-0.5 if scale is None else scale,
        rope=layer.rope,
        window=layer.window,
        softcap=softcap,
        q_norm=None if qk_norm is None else qk_norm("q", heads),
        k_norm=None if qk_norm is None else qk_norm("k", c.kv_heads),
        q_after=None if qk_after is None else qk_after("q", heads),
        k_after=None if qk_after is None else qk_after("k", c.kv_heads),
        groups=groups,
        clip=clip,
        slopes=alibi_slopes,
        sinks=sinks,
        causal=causal,
    )


def alibi(w: Weights, heads: int, *, max_bias: float = 8.0, scale: float = 1.0) -> Array:
    """ALiBi slopes times `scale`, float32 [heads], the same for all layers."""
    values = np.array([s * scale for s in slopes(heads, max_bias)], np.float32)
    return w.ops.vector([packed_floats(values)])


def gated_mlp(
    w: Weights,
    c: DecoderConfig,
    *,
    act: str = "",
    bias: bool = False,
    inner: int = 0,
    names: tuple[str, str, str] = ("gate_proj", "up_proj", "down_proj"),
) -> GatedMLP:
    """gate_proj and up_proj (or gate_up_proj) and down_proj at the cursor, or `names` in their
    place. act, inner: in place of the config's hidden_act and intermediate_size."""
    width, (gate, up, down) = inner or c.intermediate_size, names
    sizes = (c.hidden_size, (width, width))
    return GatedMLP(
        ops=w.ops,
        gate_up=w.linear((gate, up), *sizes, bias=bias, fused="gate_up_proj"),
        down=w.linear(down, width, c.hidden_size, bias=bias),
        act=activation(act or c.hidden_act),
    )


def plain_mlp(
    w: Weights,
    c: DecoderConfig,
    up: str,
    down: str,
    *,
    act: str = "",
    bias: bool = False,
    inner: int = 0,
) -> PlainMLP:
    """`up` and `down` at the cursor. act, inner: in place of the config's hidden_act and
    intermediate_size."""
    width = inner or c.intermediate_size
    return PlainMLP(
        ops=w.ops,
        up=w.linear(up, c.hidden_size, width, bias=bias),
        down=w.linear(down, width, c.hidden_size, bias=bias),
        act=activation(act or c.hidden_act),
    )


def rope_of(w: Weights, c: DecoderConfig, *, interleaved: bool = False) -> RopeSpec:
    """The rotary table that the config and, in a GGUF file, the tensor `rope_freqs` describe."""
    return rope_spec(
        c.rotary,
        c.rope_theta,
        c.rope_scaling,
        c.max_position_embeddings,
        interleaved=interleaved,
        divisors=w.numbers("model.rope_freqs", c.rotary // 2)
        if w.has("model.rope_freqs")
        else None,
    )


def long_rope(
    w: Weights, c: DecoderConfig, *, original: int | None, magnitude: float | None
) -> RopeSpec:
    """Phi's rotary table: from the config's scaling, or from the two sets of divisors in a GGUF
    file.

    original: the context before scaling, if the config gives it beside the scaling; magnitude: of a
    GGUF file.
    """
    scaling = c.rope_scaling
    length = original or (scaling or {}).get("original_max_position_embeddings")
    length = length or c.max_position_embeddings
    if scaling is not None:
        # Early files say yarn for what was later named LongRoPE.
        kind = "longrope" if scaling.get("rope_type") == "yarn" else scaling.get("rope_type")
        scaling = {**scaling, "original_max_position_embeddings": length, "rope_type": kind}
    elif w.has("model.rope_factors_long"):
        scaling = {
            "rope_type": "longrope",
            "original_max_position_embeddings": length,
            "attention_factor": magnitude,
            "short_factor": w.numbers("model.rope_factors_short", c.rotary // 2),
            "long_factor": w.numbers("model.rope_factors_long", c.rotary // 2),
        }
    return rope_spec(c.rotary, c.rope_theta, scaling, c.max_position_embeddings)


def typed_ropes(
    w: Weights, c: DecoderConfig, given: Mapping[str, Any] | None, *, local: float
) -> dict[str, RopeSpec]:
    """One rotary table per layer type.

    given: the config's `rope_parameters`, with one entry per layer type. A type without an entry
    gets the config's own table for full attention, and for windows an unscaled table with the base
    `local`. A `rope_scaling` beside `rope_parameters` applies to full attention. Raises
    CheckpointError, UnsupportedModel.
    """
    length = c.max_position_embeddings
    specs = {FULL: rope_of(w, c), SLIDING: rope_spec(c.rotary, local, None, length)}
    thetas = {FULL: c.rope_theta, SLIDING: local}
    for kind, entry in (given or {}).items():
        if not isinstance(entry, dict):
            raise CheckpointError(
                f"config: rope_parameters has {kind!r} beside its layer types.",
                fix="download the checkpoint's config again.",
            )
        if kind == FULL:
            entry = entry | (c.rope_scaling or {})
        theta = entry.get("rope_theta", thetas.get(kind, c.rope_theta))
        if not isinstance(theta, int | float):
            raise CheckpointError(
                f"config: rope_parameters has a rope_theta of {theta!r}.",
                fix="download the checkpoint's config again.",
            )
        if entry.get("partial_rotary_factor", 1.0) != 1.0:
            raise UnsupportedModel(
                f"config: rope_parameters has a partial_rotary_factor for {kind}, but this "
                "architecture rotates whole heads.",
                fix="check model_type: this config belongs to another architecture.",
            )
        specs[kind] = rope_spec(c.rotary, float(theta), entry, length)
    return specs


def check(c: DecoderConfig) -> None:
    """Raise CheckpointError unless every size is positive."""
    positive(
        "config",
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        inner=c.intermediate_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        kv_heads=c.kv_heads,
    )
    positive("config", head_dim=c.width, rotary=c.rotary)


def decoder(
    w: Weights,
    c: StackConfig,
    plans: Sequence[LayerPlan],
    block: Callable[[Weights, LayerPlan], Block],
    norm: Callable[[Array], Array],
    *,
    head_bias: bool = False,
    embed_scale: float = 1.0,
    logits_scale: float = 1.0,
    logits_softcap: float | None = None,
    names: Names = NAMES,
    skip: Mapping[str, str] | None = None,
    tower: Tower | None = None,
    mtp: MakesLayer | None = None,
    made: type[Decoder] = Decoder,
) -> Decoder:
    """The model: embedding, `block(cursor, plan)` for each layer, `norm`, and an output head (the
    embedding, if tied). skip: pattern of tensor names that are left unread -> reason. tower: see
    `Decoder`. mtp: makes the layer for further tokens, if one is wanted (`Ops.mtp`). made: the
    class of the model."""
    embed = w.matrix(f"{names.embed}.weight", c.vocab_size, c.hidden_size)
    layers = w.layers(names.layers, c.num_hidden_layers)
    blocks = [block(at, plan) for at, plan in zip(layers, plans, strict=True)]
    if c.tie_word_embeddings:
        head = Linear(w.ops, embed, None, (c.vocab_size,))
    else:
        head = w.linear(names.head, c.hidden_size, c.vocab_size, bias=head_bias)
    further = mtp(w, embed, head) if mtp is not None and w.ops.mtp else None
    positions = None
    if names.positions:
        positions = w.matrix(f"{names.positions}.weight", c.max_position_embeddings, c.hidden_size)
    tied = {rf"{re.escape(names.head)}\.weight": "tied to the embedding"}
    return made(
        ops=w.ops,
        embed=embed,
        blocks=blocks,
        norm=norm,
        out=head,
        groups=w.states.groups,
        vocab_size=c.vocab_size,
        context=c.max_position_embeddings,
        embed_scale=embed_scale,
        positions=positions,
        logits_scale=logits_scale,
        logits_softcap=logits_softcap,
        ropes=tuple(dict.fromkeys(p.rope for p in plans if p.rope is not None)),
        tower=tower,
        mtp=further,
        skipped=w.finish(_DERIVED | (tied if c.tie_word_embeddings else {}) | dict(skip or {})),
    )
