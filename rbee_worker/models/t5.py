"""T5 1.0, 1.1, Flan-T5, UL2, mT5 and umT5: an encoder and a decoder with relative positions.

model_type: t5 (Raffel et al. 2020), mt5 (Xue et al. 2021, the same), umt5 (Chung et al. 2023:
every layer has its own relative positions). Scores are not divided by the root of the width, norms
have no mean, and a model whose head is the embedding divides the head's input by the root of the
model's width.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.attention import Attention
from rbee_worker.layers.blocks import FeedForward, PreNorm, PreNormCross
from rbee_worker.layers.cross_attention import CrossAttention
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.mlp import GatedMLP, PlainMLP
from rbee_worker.layers.norm import RMSNorm
from rbee_worker.models.config import StackConfig, positive
from rbee_worker.models.encoder import distances
from rbee_worker.models.encoder_decoder import EncoderDecoder
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Activation
from rbee_worker.ops.batch import Array
from rbee_worker.state.specs import CrossKV, PagedKV, StepKV

# Positions are relative, so nothing but memory ends a text; plans need some number, and this many
# times the length of the training texts is more than these models are good for.
LONGEST = 16
_ACTS: dict[str, tuple[Activation, bool]] = {
    "relu": ("relu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
    "gated-relu": ("relu", True),
}
EMBEDDING = "shared.weight"
_TABLE = "relative_attention_bias"
_SKIP = {
    r"(encoder|decoder)\.embed_tokens\.weight": "the same as the shared embedding",
    rf".*EncDecAttention\.{_TABLE}\.weight": "looking at the source has no positions",
}
_TIED = {r"lm_head\.weight": "tied to the embedding"}


@dataclass(frozen=True, kw_only=True)
class Config(StackConfig):
    """T5's keys, under the names that other families have for them (checkpoint/names/dialects/).

    num_decoder_layers: None: as many as the encoder has."""

    head_dim: int
    intermediate_size: int
    num_attention_heads: int
    num_decoder_layers: int | None = None
    relative_attention_num_buckets: int = 32
    relative_attention_max_distance: int = 128
    layer_norm_epsilon: float = 1e-6
    feed_forward_proj: str | None = "relu"
    is_gated_act: bool | None = None  # of a GGUF file, which has no feed_forward_proj
    max_position_embeddings: int = 512
    tie_word_embeddings: bool = True
    scale_decoder_outputs: bool | None = (
        None  # transformers 5: what tie_word_embeddings said before
    )
    decoder_start_token_id: int | None = None

    @property
    def inner(self) -> int:
        """The columns of all heads."""
        return self.num_attention_heads * self.head_dim

    @property
    def scaled(self) -> bool:
        """Whether the input of the head is divided by the root of the width."""
        given = self.scale_decoder_outputs
        return self.tie_word_embeddings if given is None else given

    @property
    def tables_everywhere(self) -> bool:
        """Whether every layer has relative positions of its own, not the first one's."""
        return False

    @property
    def projection(self) -> str:
        """The kind of the feed-forward parts."""
        return self.feed_forward_proj or ("gated-gelu" if self.is_gated_act else "relu")


@dataclass(frozen=True, kw_only=True)
class Mt5(Config):
    """mT5's values: the input of its head is never divided."""

    feed_forward_proj: str | None = "gated-gelu"

    @property
    def scaled(self) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class Umt5(Config):
    """umT5's values."""

    feed_forward_proj: str | None = "gated-gelu"

    @property
    def tables_everywhere(self) -> bool:
        return True


def build(c: Config, w: Weights) -> EncoderDecoder:
    """t5, mt5, umt5. Raises CheckpointError, UnsupportedModel."""
    _check(c)
    dim = c.hidden_size
    embed = w.matrix(_embedding(w), c.vocab_size, dim)
    head = Linear(w.ops, embed, None, (c.vocab_size,))
    if not c.tie_word_embeddings and w.has("lm_head.weight"):
        head = w.linear("lm_head", dim, c.vocab_size)
    tables: dict[bool, Array] = {}

    def attention(at: Weights, *, reads_all: bool) -> Attention:
        wanted = c.tables_everywhere or reads_all not in tables
        if wanted and at.has(f"{_TABLE}.weight"):  # the first layer's is that of those without one
            tables[reads_all] = _distances(at, c, both_ways=reads_all)
        if reads_all not in tables:
            raise CheckpointError(
                f"the first layer has no {_TABLE}.", fix="download the checkpoint again."
            )
        kept = StepKV if reads_all else PagedKV
        return Attention(
            ops=w.ops,
            qkv=at.linear(("q", "k", "v"), dim, (c.inner,) * 3),
            out=at.linear("o", c.inner, dim),
            where=w.states.add(kept(c.num_attention_heads, c.head_dim, c.head_dim)),
            heads=c.num_attention_heads,
            kv_heads=c.num_attention_heads,
            scale=1.0,
            rope=None,
            distances=tables[reads_all],
            causal=not reads_all,
        )

    def reader(at: Weights) -> PreNorm:
        return PreNorm(
            ops=w.ops,
            attention_norm=_norm(at.sub("layer.0"), c),
            attention=attention(at.sub("layer.0.SelfAttention"), reads_all=True),
            mlp_norm=_norm(at.sub("layer.1"), c),
            mlp=_mlp(at.sub("layer.1.DenseReluDense"), c),
        )

    def writer(at: Weights) -> tuple[PreNormCross, CrossAttention]:
        cross = _cross(at.sub("layer.1.EncDecAttention"), c)
        block = PreNormCross(
            ops=w.ops,
            attention_norm=_norm(at.sub("layer.0"), c),
            attention=attention(at.sub("layer.0.SelfAttention"), reads_all=False),
            cross_norm=_norm(at.sub("layer.1"), c),
            cross=cross,
            mlp_norm=_norm(at.sub("layer.2"), c),
            mlp=_mlp(at.sub("layer.2.DenseReluDense"), c),
        )
        return block, cross

    layers = c.num_decoder_layers or c.num_hidden_layers
    encoder = [reader(at) for at in w.layers("encoder.block", c.num_hidden_layers)]
    pairs = [writer(at) for at in w.layers("decoder.block", layers)]
    return EncoderDecoder(
        ops=w.ops,
        embed=embed,
        encoder=encoder,
        encoder_norm=w.sub("encoder").rms_norm("final_layer_norm", dim, c.layer_norm_epsilon),
        blocks=[block for block, _ in pairs],
        crosses=[cross for _, cross in pairs],
        norm=w.sub("decoder").rms_norm("final_layer_norm", dim, c.layer_norm_epsilon),
        out=head,
        groups=w.states.groups,
        vocab_size=c.vocab_size,
        context=LONGEST * c.max_position_embeddings,
        logits_scale=dim**-0.5 if c.scaled else 1.0,
        start=c.decoder_start_token_id or 0,
        skipped=w.finish(_SKIP | ({} if head.weight is not embed else _TIED)),
    )


def _embedding(w: Weights) -> str:
    """The embedding's name: older files have it only under the names of its two uses."""
    names = (EMBEDDING, "encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    return next(filter(w.has, names), names[0])


def _cross(at: Weights, c: Config) -> CrossAttention:
    heads, width = c.num_attention_heads, c.head_dim
    return CrossAttention(
        ops=at.ops,
        q=at.linear("q", c.hidden_size, c.inner),
        kv=at.linear(("k", "v"), c.hidden_size, (c.inner, c.inner)),
        out=at.linear("o", c.inner, c.hidden_size),
        where=at.states.add(CrossKV(heads, width, width)),
        heads=heads,
        scale=1.0,
    )


def _mlp(at: Weights, c: Config) -> FeedForward:
    act, gated = _ACTS[c.projection]
    dim, inner = c.hidden_size, c.intermediate_size
    down = at.linear("wo", inner, dim)
    if gated:
        return GatedMLP(at.ops, at.linear(("wi_0", "wi_1"), dim, (inner, inner)), down, act)
    up = "wi" if at.has("wi.weight") else "wi_1"  # its name in GGUF files
    return PlainMLP(at.ops, at.linear(up, dim, inner), down, act)


def _norm(at: Weights, c: Config) -> RMSNorm:
    return at.rms_norm("layer_norm", c.hidden_size, c.layer_norm_epsilon)


def _distances(at: Weights, c: Config, *, both_ways: bool) -> Array:
    return distances(
        at,
        f"{_TABLE}.weight",
        (c.relative_attention_num_buckets, c.num_attention_heads),
        farthest=c.relative_attention_max_distance,
        both_ways=both_ways,
    )


def _check(c: Config) -> None:
    positive(
        "config",
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        inner=c.intermediate_size,
        heads=c.num_attention_heads,
        head=c.head_dim,
        layers=c.num_hidden_layers,
        decoder_layers=c.num_decoder_layers or c.num_hidden_layers,
        positions=c.max_position_embeddings,
    )
    if c.projection not in _ACTS:
        raise UnsupportedModel(
            f"config: feed_forward_proj {c.projection!r} is not supported.",
            fix=f"supported: {', '.join(_ACTS)}.",
        )
    buckets, farthest = c.relative_attention_num_buckets, c.relative_attention_max_distance
    if buckets < 4 or buckets % 2 or farthest <= buckets // 2:
        raise CheckpointError(
            f"config: {buckets} buckets of distances up to {farthest} are not possible.",
            fix="download the checkpoint's config again.",
        )
    if c.decoder_start_token_id is not None and not (0 <= c.decoder_start_token_id < c.vocab_size):
        raise CheckpointError(
            f"config: decoder_start_token_id {c.decoder_start_token_id} is not in the vocabulary.",
            fix="download the checkpoint's config again.",
        )
