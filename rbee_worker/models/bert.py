"""BERT and RoBERTa: learned positions, a norm after each half, every token sees every other one.

model_type: bert (Devlin et al. 2018), roberta (Liu et al. 2019: no second text's embedding in use,
positions begin after the padding's id), xlm-roberta (Conneau et al. 2020, the same), camembert
(Martin et al. 2020, the same). With their heads for classifying whole texts: BERT's pooler and a
linear map; RoBERTa's own two maps.
"""

from __future__ import annotations

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


@dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
    """BERT's own keys."""

    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    position_embedding_type: str | None = "absolute"
    is_decoder: bool = False
    add_cross_attention: bool = False


@dataclass(frozen=True, kw_only=True)
class Roberta(Config):
    """RoBERTa's own values."""

    pad_token_id: int | None = 1


def build(c: Config, w: Weights) -> Encoder:
    """bert. Raises CheckpointError, UnsupportedModel."""
    _check(c)
    prefix = _prefix(w, "bert")
    scores = None
    if c.labels and w.has("classifier.dense.weight"):  # RoBERTa's, in a GGUF file
        scores = _roberta_scores(c, w)
    elif c.labels and c.classifier_labels is not None:
        raise UnsupportedModel(
            "the file has a classifier, but not the pooler before it, which converters leave out.",
            fix="use the model's safetensors files.",
        )
    elif c.labels:
        pooler = (w.sub("bert") if prefix else w).sub("pooler")
        scores = Scores(
            w.ops,
            pooler.linear("dense", c.hidden_size, c.hidden_size, bias=True),
            None,
            w.linear("classifier", c.hidden_size, len(c.labels), bias=True),
        )
    return _encoder(c, w, prefix, scores, first=0)


def build_roberta(c: Roberta, w: Weights) -> Encoder:
    """roberta and those that are built alike. Raises CheckpointError, UnsupportedModel."""
    _check(c)
    if c.pad_token_id is None or not 0 <= c.pad_token_id < c.max_position_embeddings - 1:
        raise CheckpointError(
            f"config: pad_token_id is {c.pad_token_id}, but positions begin after it.",
            fix="download the checkpoint's config again.",
        )
    scores = _roberta_scores(c, w) if c.labels else None
    return _encoder(c, w, _prefix(w, "roberta"), scores, first=c.pad_token_id + 1)


def _roberta_scores(c: Config, w: Weights) -> Scores:
    at, dim = w.sub("classifier"), c.hidden_size
    return Scores(
        w.ops,
        at.linear("dense", dim, dim, bias=True),
        None,
        at.linear("out_proj", dim, len(c.labels), bias=True),
    )


def _encoder(c: Config, w: Weights, prefix: str, scores: Scores | None, *, first: int) -> Encoder:
    """prefix: of the model's tensors; first: the position of the first token."""
    root = w.sub(prefix) if prefix else w
    dim, eps = c.hidden_size, c.layer_norm_eps
    tables = root.sub("embeddings")
    embed = tables.matrix("word_embeddings.weight", c.vocab_size, dim)

    def block(at: Weights) -> NormAfterAdd:
        mix = at.sub("attention")
        maps = ("self.query", "self.key", "self.value")
        return NormAfterAdd(
            attention=attention(mix, c, maps, "output.dense", bias=True),
            attention_norm=_norm(mix, "output.LayerNorm", dim, eps),
            mlp=PlainMLP(
                ops=w.ops,
                up=at.linear("intermediate.dense", dim, c.intermediate_size, bias=True),
                down=at.linear("output.dense", c.intermediate_size, dim, bias=True),
                act=activation(c.hidden_act),
            ),
            mlp_norm=_norm(at, "output.LayerNorm", dim, eps),
        )

    return Encoder(
        ops=w.ops,
        embed=embed,
        positions=tables.matrix("position_embeddings.weight", c.max_position_embeddings, dim),
        segments=tables.matrix("token_type_embeddings.weight", c.type_vocab_size, dim),
        embed_norm=_norm(tables, "LayerNorm", dim, eps),
        first_position=first,
        blocks=[block(at) for at in root.layers("encoder.layer", c.num_hidden_layers)],
        norm=NoNorm(w.ops),
        out=Linear(w.ops, embed, None, (c.vocab_size,)),
        groups=w.states.groups,
        vocab_size=c.vocab_size,
        context=c.max_position_embeddings - first,
        scores=scores,
        labels=c.labels,
        activation=c.activation,
        skipped=w.finish(leftovers(f"{prefix}." if prefix else "", pooler=True)),
    )


def _prefix(w: Weights, name: str) -> str:
    """The prefix of the model's tensors: a model with a head has its name before them."""
    return name if w.has(f"{name}.embeddings.word_embeddings.weight") else ""


def _norm(w: Weights, name: str, dim: int, eps: float) -> LayerNorm:
    """A layer norm, whose vectors the oldest files call gamma and beta."""
    old = w.has(f"{name}.gamma")
    return w.layer_norm(name, dim, eps, named=("gamma", "beta") if old else ("weight", "bias"))


def _check(c: Config) -> None:
    positive(
        "config",
        vocab=c.vocab_size,
        hidden=c.hidden_size,
        inner=c.intermediate_size,
        layers=c.num_hidden_layers,
        heads=c.num_attention_heads,
        types=c.type_vocab_size,
        positions=c.max_position_embeddings,
    )
    if c.hidden_size % c.num_attention_heads:
        raise CheckpointError(
            f"config: {c.num_attention_heads} heads do not divide {c.hidden_size} columns.",
            fix="download the checkpoint's config again.",
        )
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
