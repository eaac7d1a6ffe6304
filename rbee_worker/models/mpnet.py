"""MPNet: BERT's block, with T5's relative positions beside learned ones.

model_type: mpnet (Song et al. 2020). All layers share one table of distances; positions begin after
the padding's id, which is 1. With its head for classifying whole texts, which is RoBERTa's.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.errors import UnsupportedModel
from rbee_worker.models.bert import Names, check, encoder, roberta_scores
from rbee_worker.models.encoder import Encoder, EncoderConfig, distances
from rbee_worker.models.weights import Weights

_NAMES = Names(
    "mpnet",
    qkv=("attention.attn.q", "attention.attn.k", "attention.attn.v"),
    out="attention.attn.o",
    attention_norm="attention.LayerNorm",
)
_BUCKETS, _FARTHEST = 32, 128  # as transformers computes them, whatever the config says
_FIRST = 2


@dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
    """MPNet's own keys."""

    max_position_embeddings: int = 512
    layer_norm_eps: float = 1e-12
    relative_attention_num_buckets: int = _BUCKETS


def build(c: Config, w: Weights) -> Encoder:
    """mpnet. Raises CheckpointError, UnsupportedModel."""
    check(c)
    if c.relative_attention_num_buckets != _BUCKETS:
        raise UnsupportedModel(
            f"config: relative_attention_num_buckets is {c.relative_attention_num_buckets}, but "
            f"transformers computes {_BUCKETS}.",
            fix=f"use a model with {_BUCKETS}.",
        )
    table = f"{_NAMES.prefixed(w)}encoder.relative_attention_bias.weight"
    shape = _BUCKETS, c.num_attention_heads
    return encoder(
        c,
        w,
        _NAMES,
        eps=c.layer_norm_eps,
        scores=roberta_scores(c, w) if c.labels else None,
        first=_FIRST,
        distances=distances(w, table, shape, farthest=_FARTHEST, both_ways=True),
    )
