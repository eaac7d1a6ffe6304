"""`Encoder`: a model that reads a whole text and gives vectors or class scores, never tokens.

What the families of encoders share: the model itself, attention in which every row sees every other
one, and the heads that score a text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from rbee_worker.checkpoint.ops import floats, packed_floats
from rbee_worker.errors import UnsupportedModel
from rbee_worker.layers.attention import Attention
from rbee_worker.layers.distances import distance_rows
from rbee_worker.layers.linear import Linear
from rbee_worker.model_info import Pooling, Purpose
from rbee_worker.models.base import Decoder
from rbee_worker.models.classes import ClassKeys
from rbee_worker.models.config import StackConfig
from rbee_worker.models.weights import Weights
from rbee_worker.ops import Activation, Ops, RopeSpec, Weight
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.state.specs import StepKV
from rbee_worker.types import PoolingRule

MASKED = "predicts masked words, which is not served"
POOLER = "texts are pooled as the checkpoint's modules say"


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ClassKeys, StackConfig):
    """The config.json keys that every family of encoders has."""

    intermediate_size: int
    num_attention_heads: int
    hidden_act: str = "gelu"
    tie_word_embeddings: bool = True

    @property
    def head_width(self) -> int:
        """The width of one head, in columns."""
        return self.hidden_size // self.num_attention_heads

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes that the model scores; () if it has no head for that.

        Raises UnsupportedModel for a model with another head.
        """
        if self.classifier_labels is not None:
            return super().labels
        for name in self.architectures or ():
            kind = name.rpartition("For")[2] if "For" in name else ""
            if kind == "SequenceClassification":
                return super().labels
            if kind not in ("", "MaskedLM", "PreTraining", "NextSentencePrediction"):
                raise UnsupportedModel(
                    f"{name}: encoders with this head are not supported.",
                    fix="use one that gives embeddings, or that classifies whole texts.",
                )
        return ()


@dataclass(frozen=True)
class Scores:
    """A classifier's head: rows -> dense map, `act` (None: tanh), perhaps a norm -> one score for
    each class."""

    ops: Ops
    dense: Linear
    act: Activation | None
    out: Linear
    norm: Callable[[Array], Array] | None = None

    def __post_init__(self) -> None:
        self.dense.withdraw()
        self.out.withdraw()

    def __call__(self, rows: Array) -> Array:
        """rows [S, dim] -> float32 [S, classes]"""
        x = self.ops.linear(rows, self.dense.weight, self.dense.bias, precise=True)
        x = self.ops.softcap(x, 1.0) if self.act is None else self.ops.act(x, self.act)
        if self.norm is not None:
            x = self.norm(x)
        return self.ops.logits(x, self.out.weight, self.out.bias)


@dataclass(frozen=True)
class Encoder(Decoder):
    """norm is applied to the last block's output; embed_norm: to the first one's input. segments: a
    table that is added to the embeddings by text; first_position: the row of `positions` for the
    first token. out: not computed, it stands for the tied table. scores: the head of a classifier;
    pooling: the row that it takes.
    """

    embed_norm: Callable[[Array], Array] | None = None
    segments: Weight | None = None
    first_position: int = 0
    scores: Scores | None = None
    pooling: PoolingRule = "cls"

    @property
    def width(self) -> int:
        return self.embed.cols

    @property
    def outputs(self) -> int:
        return len(self.labels) or self.width

    @property
    def purpose(self) -> Purpose:
        if not self.labels:
            return Purpose(task="embed", pooling=Pooling(how="mean"))
        return self.classifying(self.pooling)

    def embedded(self, batch: Batch) -> Array:
        """The input of the first block, [N, dim], for a batch of N rows."""
        x = self.ops.embed(self.embed, batch, scale=self.embed_scale)
        if self.segments is not None:
            x = self.ops.add_segments(x, self.segments, batch)
        if self.positions is not None:
            x = self.ops.add_positions(x, self.positions, batch, offset=self.first_position)
        return x if self.embed_norm is None else self.embed_norm(x)

    def head(self, rows: Array) -> Array:
        """Pooled rows [S, dim] -> the classes' scores, float32 [S, classes]; without a classifier
        they are the result."""
        return rows if self.scores is None else self.scores(rows)


class Heads(Protocol):
    """What attention must know of a config."""

    @property
    def hidden_size(self) -> int: ...
    @property
    def num_attention_heads(self) -> int: ...
    @property
    def head_width(self) -> int: ...


def attention(
    w: Weights,
    c: Heads,
    qkv: str | Sequence[str],
    out: str,
    *,
    bias: bool,
    rope: RopeSpec | None = None,
    window: int | None = None,
    distances: Array | None = None,
) -> Attention:
    """Attention from the maps `qkv` (one that has all three, or three) and `out` at the cursor.

    window: a row sees the rows less than `window` positions before or after it; distances: see
    `Attention`.
    """
    heads, width, dim = c.num_attention_heads, c.head_width, c.hidden_size
    fused = isinstance(qkv, str)
    maps = w.linear(qkv, dim, 3 * dim if fused else (dim, dim, dim), bias=bias)
    return Attention(
        ops=w.ops,
        qkv=replace(maps, widths=(dim, dim, dim)),
        out=w.linear(out, dim, dim, bias=bias),
        where=w.states.add(StepKV(heads, width, width)),
        heads=heads,
        kv_heads=heads,
        scale=width**-0.5,
        rope=rope,
        window=window,
        distances=distances,
        causal=False,
    )


def distances(
    w: Weights, name: str, shape: tuple[int, int], *, farthest: int, both_ways: bool
) -> Array:
    """`Ops.attend`'s distances from T5's table `name` of `shape` [buckets, heads] at the cursor."""
    buckets = np.asarray(floats(w.floats(name, shape)), np.float32).reshape(shape)
    rows = distance_rows(buckets, farthest=farthest, both_ways=both_ways)
    return w.ops.vector([packed_floats(rows)])


def leftovers(prefix: str, *, pooler: bool) -> Mapping[str, str]:
    """Tensors that an encoder may have and nothing reads (pattern -> reason). prefix: of the
    model's tensors, with its dot; pooler: whether the pooler is one of them."""
    found = {
        r".*position_ids": "derived from the config",
        r"(cls|lm_head|decoder|head)\..*": MASKED,
    }
    return found | ({rf"{prefix}pooler\..*": POOLER} if pooler else {})
