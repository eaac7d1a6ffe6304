"""What families have in common when they read a checkpoint: values in, layers out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.attention import Attention
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.mlp import GatedMLP, PlainMLP
from rbee_worker.layers.norm import Norm
from rbee_worker.layers.rope import rope_spec
from rbee_worker.models.base import Block, Decoder
from rbee_worker.models.config import DecoderConfig, activation, positive
from rbee_worker.models.weights import Weights
from rbee_worker.ops import RopeSpec
from rbee_worker.state.specs import PagedKV

if TYPE_CHECKING:
    from torch import Tensor

_DERIVED = {r".*\.rotary_emb\.inv_freq": "derived from the config"}
_TIED = {r"lm_head\.weight": "tied to the embedding"}


def attention(
    w: Weights,
    c: DecoderConfig,
    *,
    rope: RopeSpec | None,
    window: int | None = None,
    bias: bool = False,
    out_bias: bool = False,
    out: str = "o_proj",
    scale: float | None = None,
    softcap: float | None = None,
    qk_norm: Callable[[str, int], Norm] | None = None,
) -> Attention:
    """Attention from q_proj, k_proj, v_proj (or qkv_proj) and `out` at the cursor.

    scale None: 1 / sqrt(head width). qk_norm("q" or "k", heads): the norm of that projection.
    """
    heads, width = c.num_attention_heads, c.width
    kv = c.kv_heads * width
    return Attention(
        ops=w.ops,
        qkv=w.linear(
            ("q_proj", "k_proj", "v_proj"),
            c.hidden_size,
            (heads * width, kv, kv),
            bias=bias,
            fused="qkv_proj",
        ),
        out=w.linear(out, heads * width, c.hidden_size, bias=out_bias),
        where=w.states.add(PagedKV(c.kv_heads, width, width, window)),
        heads=heads,
        kv_heads=c.kv_heads,
        scale=width**-0.5 if scale is None else scale,
        rope=rope,
        window=window,
        softcap=softcap,
        q_norm=None if qk_norm is None else qk_norm("q", heads),
        k_norm=None if qk_norm is None else qk_norm("k", c.kv_heads),
    )


def gated_mlp(w: Weights, c: DecoderConfig, *, act: str = "", bias: bool = False) -> GatedMLP:
    """gate_proj and up_proj (or gate_up_proj) and down_proj at the cursor; act: as hidden_act."""
    return GatedMLP(
        ops=w.ops,
        gate_up=w.linear(
            ("gate_proj", "up_proj"),
            c.hidden_size,
            (c.intermediate_size,) * 2,
            bias=bias,
            fused="gate_up_proj",
        ),
        down=w.linear("down_proj", c.intermediate_size, c.hidden_size, bias=bias),
        act=activation(act or c.hidden_act),
    )


def plain_mlp(
    w: Weights, up: str, down: str, dim: int, inner: int, *, act: str, bias: bool
) -> PlainMLP:
    """`up` [inner, dim] and `down` [dim, inner] at the cursor."""
    return PlainMLP(
        ops=w.ops,
        up=w.linear(up, dim, inner, bias=bias),
        down=w.linear(down, inner, dim, bias=bias),
        act=activation(act),
    )


def rope_of(w: Weights, c: DecoderConfig, *, interleaved: bool = False) -> RopeSpec:
    """The rotary table that the config and, in GGUF files, `rope_freqs` describe."""
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


def typed_rope(c: DecoderConfig, given: Mapping[str, Any]) -> RopeSpec:
    """The rotary table of one layer type: `given` is its entry of `rope_parameters`."""
    theta = given.get("rope_theta", c.rope_theta)
    return rope_spec(c.rotary, float(theta), given, c.max_position_embeddings)


def windows(types: Sequence[Any], count: int, window: int | None) -> list[int | None]:
    """The window of each of `count` layers of the given `layer_types`; None: the whole sequence.

    Raises CheckpointError, UnsupportedModel.
    """
    if len(types) != count:
        raise CheckpointError(
            f"config: layer_types names {len(types)} layers, num_hidden_layers says {count}.",
            fix="download the checkpoint's config again.",
        )
    known = {"full_attention": None, "sliding_attention": window}
    unknown = sorted({str(t) for t in types if t not in known})
    if unknown:
        raise UnsupportedModel(
            f"config: layer_types has {', '.join(unknown)}, which this architecture lacks.",
            fix=f"supported: {', '.join(known)}.",
        )
    if window is None and "sliding_attention" in types:
        raise CheckpointError(
            "config: layer_types has sliding_attention, but sliding_window is not set.",
            fix="download the checkpoint's config again.",
        )
    return [known[t] for t in types]


def check(c: DecoderConfig) -> None:
    """Every size must make sense. Raises CheckpointError."""
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
    c: DecoderConfig,
    layer: Callable[[Weights, int], Block],
    norm: Callable[[Tensor], Tensor],
    *,
    ropes: Sequence[RopeSpec],
    head_bias: bool = False,
    embed_scale: float = 1.0,
    logits_scale: float = 1.0,
    logits_softcap: float | None = None,
    skip: Mapping[str, str] | None = None,
) -> Decoder:
    """Embedding, blocks from `layer(cursor, number)`, `norm`, head (the embedding where tied)."""
    embed = w.matrix("model.embed_tokens.weight", c.vocab_size, c.hidden_size)
    layers = enumerate(w.layers("model.layers", c.num_hidden_layers))
    blocks = [layer(at, number) for number, at in layers]
    if c.tie_word_embeddings:
        head = Linear(w.ops, embed, None, (c.vocab_size,))
    else:
        head = w.linear("lm_head", c.hidden_size, c.vocab_size, bias=head_bias)
    return Decoder(
        ops=w.ops,
        embed=embed,
        blocks=blocks,
        norm=norm,
        out=head,
        groups=w.states.groups,
        vocab_size=c.vocab_size,
        context=c.max_position_embeddings,
        embed_scale=embed_scale,
        logits_scale=logits_scale,
        logits_softcap=logits_softcap,
        ropes=tuple(dict.fromkeys(ropes)),
        skipped=w.finish(_DERIVED | (_TIED if c.tie_word_embeddings else {}) | dict(skip or {})),
    )
