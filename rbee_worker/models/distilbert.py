"""DistilBERT: BERT's block under other names, without a table of two texts.

model_type: distilbert (Sanh et al. 2019). With its head for classifying whole texts: two maps, ReLU
in between.
"""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.models.bert import Names, check, encoder
from rbee_worker.models.config import activation
from rbee_worker.models.encoder import MASKED, Encoder, EncoderConfig, Scores
from rbee_worker.models.weights import Weights

_NAMES = Names(
    "distilbert",
    layers="transformer.layer",
    qkv=("attention.q_lin", "attention.k_lin", "attention.v_lin"),
    out="attention.out_lin",
    attention_norm="sa_layer_norm",
    up="ffn.lin1",
    down="ffn.lin2",
    mlp_norm="output_layer_norm",
)
_EPS = 1e-12  # in the code, not in the config


@dataclass(frozen=True, kw_only=True)
class Config(EncoderConfig):
    """DistilBERT's values; its dialect renames its keys."""

    max_position_embeddings: int = 512


def build(c: Config, w: Weights) -> Encoder:
    """distilbert. Raises CheckpointError, UnsupportedModel."""
    check(c)
    scores = None
    if c.labels:
        dim = c.hidden_size
        scores = Scores(
            w.ops,
            w.linear("pre_classifier", dim, dim, bias=True),
            activation("relu"),
            w.linear("classifier", dim, len(c.labels), bias=True),
        )
    skip = {r"vocab_(transform|layer_norm|projector)\..*": MASKED}
    return encoder(c, w, _NAMES, eps=_EPS, scores=scores, skip=skip)
