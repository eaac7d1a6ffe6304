"""BERT and RoBERTa: learned positions, a norm after each half, every token sees every other one.

model_type: bert (Devlin et al. 2018), roberta (Liu et al. 2019: no second text's embedding in use,
positions begin after the padding's id), xlm-roberta (Conneau et al. 2020, the same), camembert
(Martin et al. 2020, the same). With their heads for classifying whole texts: BERT's pooler and a
linear map; RoBERTa's own two maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rbee_worker.errors import CheckpointError, UnsupportedModel
from rbee_worker.layers.blocks import NormAfterAdd
from rbee_worker.layers.linear import Linear
from rbee_worker.layers.mlp import PlainMLP
from rbee_worker.layers.norm import LayerNorm, NoNorm
from rbee_worker.models.config import activation, positive
from rbee_worker.models.encoder import (
    Encoder,
    EncoderConfig,
    Scores,
    attention,
    leftovers,
)
from rbee_worker.models.weights import Weights
from rbee_worker.ops.batch import Array


@dataclass(frozen=True)
class Names:
    """What a family with BERT's block calls its tensors. prefix: of all of them in a model with a
    head; the others: of parts of a layer, and of the list of `layers`."""

    prefix: str
    layers: str = "encoder.layer"
    qkv: tuple[str, str, str] = (
        "attention.self.query",
        "attention.self.key",
        "attention.self.value",
    )
    out: str = "attention.output.dense"
    attention_norm: str = "attention.output.LayerNorm"
    up: str = "intermediate.dense"
    down: str = "output.dense"
    mlp_norm: str = "output.LayerNorm"

    def prefixed(self, w: Weights) -> str:
        """The prefix with its dot, "" in a model without a head."""
        named = w.has(f"{self.prefix}.embeddings.word_embeddings.weight")
        return f"{self.prefix}." if named else ""


BERT, ROBERTA = Names("bert"), Names("roberta")


@dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
    """BERT's own keys."""

    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    position_embedding_type: str | None = "absolute"
    is_decoder: bool = False
    add_cross_attention: bool = False
    without_types: bool = False  # a GGUF file that has no table of two texts: DistilBERT's


@dataclass(frozen=True, kw_only=True)
class Roberta(Config):
    """RoBERTa's own values."""

    pad_token_id: int | None = 1


def build(c: Config, w: Weights) -> Encoder:
    """bert. Raises CheckpointError, UnsupportedModel."""
    _check(c)
    scores = None
    if c.labels and c.without_types:
        raise UnsupportedModel(
            "the file has DistilBERT's classifier, whose activation files of llama.cpp do not say.",
            fix="use the model's safetensors files.",
        )
    if c.labels and w.has("classifier.dense.weight"):  # RoBERTa's, in a GGUF file
        scores = roberta_scores(c, w)
    elif c.labels and c.classifier_labels is not None:
        raise UnsupportedModel(
            "the file has a classifier, but not the pooler before it, which converters leave out.",
            fix="use the model's safetensors files.",
        )
    elif c.labels:
        scores = Scores(
            w.ops,
            w.linear(f"{BERT.prefixed(w)}pooler.dense", c.hidden_size, c.hidden_size, bias=True),
            None,
            w.linear("classifier", c.hidden_size, len(c.labels), bias=True),
        )
    types = 0 if c.without_types else c.type_vocab_size
    return encoder(c, w, BERT, eps=c.layer_norm_eps, scores=scores, types=types)


def build_roberta(c: Roberta, w: Weights) -> Encoder:
    """roberta and those that are built alike. Raises CheckpointError, UnsupportedModel."""
    _check(c)
    if c.pad_token_id is None or not 0 <= c.pad_token_id < c.max_position_embeddings - 1:
        raise CheckpointError(
            f"config: pad_token_id is {c.pad_token_id}, but positions begin after it.",
            fix="download the checkpoint's config again.",
        )
    scores = roberta_scores(c, w) if c.labels else None
    first, types = c.pad_token_id + 1, c.type_vocab_size
    return encoder(c, w, ROBERTA, eps=c.layer_norm_eps, scores=scores, first=first, types=types)


def roberta_scores(c: EncoderConfig, w: Weights) -> Scores:
    """RoBERTa's head for whole texts: two maps, tanh in between."""
    at, dim = w.sub("classifier"), c.hidden_size
    return Scores(
        w.ops,
        at.linear("dense", dim, dim, bias=True),
        None,
        at.linear("out_proj", dim, len(c.labels), bias=True),
    )


def encoder(
    c: EncoderConfig,
    w: Weights,
    names: Names,
    *,
    eps: float,
    scores: Scores | None,
    first: int = 0,
    types: int = 0,
    distances: Array | None = None,
    skip: Mapping[str, str] | None = None,
) -> Encoder:
    """A model of BERT's blocks. first: the position of the first token; types: how many texts are
    told apart; distances: see `Attention`; skip: further tensors that nothing reads -> reason."""
    prefix = names.prefixed(w)
    root = w.sub(names.prefix) if prefix else w
    dim = c.hidden_size
    tables = root.sub("embeddings")
    embed = tables.matrix("word_embeddings.weight", c.vocab_size, dim)
    segments = tables.matrix("token_type_embeddings.weight", types, dim) if types else None

    def block(at: Weights) -> NormAfterAdd:
        return NormAfterAdd(
            attention=attention(at, c, names.qkv, names.out, bias=True, distances=distances),
            attention_norm=_norm(at, names.attention_norm, dim, eps),
            mlp=PlainMLP(
                ops=w.ops,
                up=at.linear(names.up, dim, c.intermediate_size, bias=True),
                down=at.linear(names.down, c.intermediate_size, dim, bias=True),
                act=activation(c.hidden_act),
            ),
            mlp_norm=_norm(at, names.mlp_norm, dim, eps),
        )

    return Encoder(
        ops=w.ops,
        embed=embed,
        positions=tables.matrix("position_embeddings.weight", c.max_position_embeddings, dim),
        segments=segments,
        embed_norm=_norm(tables, "LayerNorm", dim, eps),
        first_position=first,
        blocks=[block(at) for at in root.layers(names.layers, c.num_hidden_layers)],
        norm=NoNorm(w.ops),
        out=Linear(w.ops, embed, None, (c.vocab_size,)),
        groups=w.states.groups,
        vocab_size=c.vocab_size,
        context=c.max_position_embeddings - first,
        scores=scores,
        labels=c.labels,
        activation=c.activation,
        skipped=w.finish({**leftovers(prefix, pooler=True), **(skip or {})}),
    )


def _norm(w: Weights, name: str, dim: int, eps: float) -> LayerNorm:
    """A layer norm, whose vectors the oldest files call gamma and beta."""
    old = w.has(f"{name}.gamma")
    return w.layer_norm(name, dim, eps, named=("gamma", "beta") if old else ("weight", "bias"))


def check(c: EncoderConfig) -> None:
    """Raise CheckpointError unless every size is positive and heads divide the columns."""
    positive(
        "config",
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        inner=c.intermediate_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        positions=c.max_position_embeddings,
    )
    if c.hidden_size % c.num_attention_heads:
        raise CheckpointError(
            f"config: {c.num_attention_heads} heads do not divide {c.hidden_size} columns.",
            fix="download the checkpoint's config again.",
        )


def _check(c: Config) -> None:
    check(c)
    positive("config", types=c.type_vocab_size)
    if c.position_embedding_type not in (None, "absolute"):
        raise UnsupportedModel(
            f"config: position_embedding_type {c.position_embedding_type!r} is not supported.",
            fix="use a checkpoint with absolute positions.",
        )
    if c.is_decoder or c.add_cross_attention:
        raise UnsupportedModel(
            "config: is_decoder or add_cross_attention is true: this model is not an encoder.",
            fix="use a checkpoint that is one.",
        )
