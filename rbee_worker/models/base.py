"""`Decoder`: embedding, blocks, final norm, output head. Every decoder-only family builds one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from rbee_worker.layers.linear import Linear
from rbee_worker.model_info import Pooling, Purpose, ScoreActivation
from rbee_worker.models.block import Block
from rbee_worker.models.mtp import MtpLayer
from rbee_worker.models.tower import Tower
from rbee_worker.ops import Ops, RopeSpec, Weight
from rbee_worker.ops.batch import Array, Batch, Carry
from rbee_worker.state.specs import StateGroup, TileSpec
from rbee_worker.types import PoolingRule

Layer = Callable[[Array], Array]


@dataclass(frozen=True)
class Decoder:
    """A model as the engine sees it: it gives hidden states for rows, and logits for chosen rows.

    context: the longest sequence it was made for, in tokens. positions: a learned table that is
    added to the embeddings. logits_scale: factor on the logits; logits_softcap: bound of the tanh
    soft cap on them. ropes: every rotary table in use. If a table depends on the sequence's length,
    sequences share cached keys only if they use the same table. carried: the columns of what the
    first block hands to all others; 0 if it hands over nothing. start: the first token of every
    answer, if the model reads its prompt with an encoder (`encode`). tower: reads the pictures of
    prompts, None: there is nothing that does. mtp: the layer that predicts further tokens, where it
    is wanted and the checkpoint has one; its keys are among those of `groups`. voice: maps a
    speaker's embedding to the model's width, for a model that speaks: a sequence is then computed
    in two lanes, and in the first one this is added to every row's embedding (engine/lanes.py).
    labels: of the classes that `out` scores, in a model that draws no tokens; activation: what
    makes probabilities of the scores.
    """

    ops: Ops
    embed: Weight
    blocks: Sequence[Block]
    norm: Callable[[Array], Array]
    out: Linear
    groups: tuple[StateGroup, ...]
    vocab_size: int
    context: int
    embed_scale: float = 1.0
    positions: Weight | None = None
    logits_scale: float = 1.0
    logits_softcap: float | None = None
    skipped: Mapping[str, str] = field(default_factory=dict)  # unread tensor -> the reason
    ropes: tuple[RopeSpec, ...] = ()
    n_parameters: int = 0
    notes: tuple[str, ...] = ()
    carried: int = 0
    start: int | None = None
    tower: Tower | None = None
    mtp: MtpLayer | None = None
    voice: Linear | None = None
    labels: tuple[str, ...] = ()
    activation: ScoreActivation = "none"

    def __post_init__(self) -> None:
        self.out.withdraw()
        if self.voice is not None:
            self.voice.withdraw()

    @property
    def width(self) -> int:
        """The columns of a hidden state."""
        return self.out.weight.cols

    @property
    def outputs(self) -> int:
        """The columns of the head's result."""
        return len(self.labels) or self.vocab_size

    @property
    def purpose(self) -> Purpose:
        """What the model is for."""
        if self.labels:
            return self.classifying("last")
        return Purpose(
            encodes=self.start is not None,
            pictures=self.tower is not None,
            speaks=self.voice is not None,
        )

    def classifying(self, how: PoolingRule) -> Purpose:
        """The purpose of a model whose head scores classes of the row that `how` names."""
        return Purpose(
            task="classify",
            pooling=Pooling(how=how, origin="the model's head"),
            labels=self.labels,
            activation=self.activation,
        )

    @property
    def tiles(self) -> TileSpec | None:
        """What rows of the memory of features are: of a picture's tile, or one of a sequence's
        voice. None: there is no such memory."""
        if self.voice is not None:
            return TileSpec(side=0, patches=1, rows=1, width=self.width)
        return None if self.tower is None else self.tower.spec

    @property
    def limits(self) -> tuple[str, ...]:
        """Sentences that say where results may differ from the reference implementation's."""
        originals = sorted({r.dynamic[2] for r in self.ropes if r.dynamic is not None})
        return tuple(
            f"a sequence keeps the frequencies that its prompt's length chose (dynamic scaling), "
            f"even if decoding takes it past {original} tokens"
            for original in originals
            if original < self.context
        )

    def embedded(self, batch: Batch) -> Array:
        """The input of the first block, [N, dim], for a batch of N rows."""
        x = self.ops.embed(self.embed, batch, scale=self.embed_scale)
        if self.tower is not None:
            x = self.ops.with_features(x, batch)
        if self.voice is not None:
            nothing = self.ops.embed(self.embed, batch, scale=0.0)
            x = self.ops.add(x, self.ops.with_features(nothing, batch))
        if self.positions is not None:
            x = self.ops.add_positions(x, self.positions, batch)
        return x

    def encode(self, batch: Batch) -> Array:
        """Read whole sources, the N rows of `batch`, and keep what answers need of them in the
        state. Returns the rows' hidden states [N, dim]. Only of a model with a `start`."""
        raise AssertionError("this model has no encoder")

    @property
    def readers(self) -> Sequence[Block]:
        """The blocks of `encode`; none without an encoder."""
        return ()

    def keep(self, x: Array, batch: Batch) -> Array:
        """The last part of `encode`, from the last reader's rows [N, dim] on."""
        raise AssertionError("this model has no encoder")

    def hidden(self, batch: Batch) -> Array:
        """The normalised hidden states, [N, dim], for a batch of N rows."""
        x = self.embedded(batch)
        for layer in self.layers(x, batch):
            x = layer(x)
        return self.norm(x)

    def layers(self, x: Array, batch: Batch) -> Sequence[Layer]:
        """The blocks, each as a function of the hidden state alone; x [N, dim]: from `embedded`."""
        return [partial(block, batch=batch) for block in self.blocks]

    def carrying(self, x: Array, batch: Batch, carry: Carry) -> Sequence[Layer]:
        """`layers`, where `carry` holds what the first block hands over: that block sets it, and
        the others take it from there. Without `carried` it stays unused."""
        return self.layers(x, batch)

    def head(self, rows: Array) -> Array:
        """Hidden states [S, dim] -> logits, float32 [S, vocab], or the scores of classes."""
        logits = self.ops.logits(rows, self.out.weight, self.out.bias)
        if self.logits_scale != 1.0:
            logits = self.ops.scale(logits, self.logits_scale)
        if self.logits_softcap is not None:
            logits = self.ops.softcap(logits, self.logits_softcap)
        return logits
