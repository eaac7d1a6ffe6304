"""Every operation on tensors that a model may use. `Ops` is abstract; each backend implements it.

A model is built with an `Ops` in hand (`weights.ops`) and touches activations only through it.
Activations are opaque to models and layers: shape [N, width] in the compute dtype, N rows of a
ragged batch. `reference` is the definition of right; every other backend is tested against it.

Rules that keep models recordable: no Python control flow on tensor values, no boolean indexing,
shapes known from the batch. This module imports no torch, nor do layers and models: with
`plan.PlanOps` a model is checked and measured from names and shapes alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from rbee_worker.errors import UnsupportedModel
from rbee_worker.ops.recurrences import Recurrences

if TYPE_CHECKING:
    from rbee_worker.checkpoint.formats import Packed
    from rbee_worker.ops.batch import Array, Batch
    from rbee_worker.ops.sampling import Sampling
    from rbee_worker.state.specs import StateRef

Activation = Literal["silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2", "sigmoid", "tanh"]


@dataclass(frozen=True)
class RopeSpec:
    """Rotary positions as values. Two layers with equal specs share one table.

    inv_freq: `dim / 2` angular frequencies (radians per position), after all scaling.
    dim: leading columns of a head that rotate; the rest pass through.
    interleaved: pairs are (0,1), (2,3).. instead of (0, dim/2), (1, dim/2+1)..
    magnitude: factor on cos and sin (yarn's attention factor).
    long_inv_freq / long_magnitude / switch: frequencies for sequences whose rope length is greater
    than `switch` (longrope). dynamic: (theta, factor, original length): frequencies of a sequence
    longer than the original length follow its rope length (dynamic NTK).
    """

    dim: int
    inv_freq: tuple[float, ...]
    interleaved: bool = False
    magnitude: float = 1.0
    long_inv_freq: tuple[float, ...] | None = None
    long_magnitude: float = 1.0
    switch: int = 0
    dynamic: tuple[float, float, int] | None = None


@dataclass(frozen=True)
class Weight:
    """A weight as a backend holds it: `rows` x `cols` numbers; `held` names the format held.

    `data` belongs to the backend. A stack of matrices (`Ops.stack`) has `count` of them, all of
    rows x cols; `nbytes` is of all together.
    """

    data: Any
    rows: int
    cols: int
    format: str  # the file's
    held: str
    nbytes: int  # as held
    count: int = 1


@dataclass(frozen=True)
class Routing:
    """How a token chooses among experts, as values.

    score: what a router's logits become. softmax over all experts or sigmoid of each; sparsemixer
    (Phi-MoE, Liu et al. 2024, top 2 only): the best expert weighs by a softmax over the logits l
    with (best - l) / max(|l|, best) <= 2 * jitter, the second likewise among the others.
    group_score: experts in `groups` equal neighbourhoods; only those of the `top_groups` best can
    be chosen, a group counting as its best score or as the sum of its best two.
    normalise: weights are divided by their sum; scale: then multiplied by this.
    """

    top_k: int
    score: Literal["softmax", "sigmoid", "sparsemixer"] = "softmax"
    normalise: bool = False
    scale: float = 1.0
    groups: int = 1
    top_groups: int = 1
    group_score: Literal["best", "best two"] = "best"
    jitter: float = 0.0


class Ops(Recurrences, ABC):
    """A backend. `device` and `dtype` (compute) are fixed for its life."""

    name: str
    device: str
    dtype: str  # "f32", "bf16", "f16"

    def lacks(self, operation: str) -> UnsupportedModel:
        """The error to raise for an operation that this backend does not have. An operation that
        not every backend has is not abstract: its body here raises this."""
        return UnsupportedModel(
            f"the {self.name} backend does not have the operation {operation!r} of this model.",
            fix="pip install 'rbee-worker[torch]', and use --backend reference.",
        )

    @abstractmethod
    def sampling(self, vocab_size: int) -> Sampling:
        """From logits of a vocabulary to tokens, on this backend's device."""

    # ---- weights

    @abstractmethod
    def matrix(self, parts: Sequence[Packed]) -> Weight:
        """Hold matrices [out_i, in] for `linear` and `embed`, rows stacked in order.

        Each part keeps the format it was found in until the backend decides how to hold it.
        """

    @abstractmethod
    def stack(self, members: Sequence[Sequence[Packed]]) -> Weight:
        """Hold several matrices of one shape for `experts` and `heads_linear`.

        Member i is its own parts' rows in order, as in `matrix`; part j of every member has the
        same shape and format.
        """

    @abstractmethod
    def vector(self, parts: Sequence[Packed]) -> Array:
        """Float vectors (norm weights, biases) one after another, held in float32.

        A part of several rows (the biases of stacked experts) counts row after row.
        """

    @abstractmethod
    def floats(self, packed: Packed) -> Packed:
        """The same values as F32: for weights that are computed with while they are loaded."""

    @abstractmethod
    def weights_done(self) -> None:
        """No more weights come: work on them that was put off is done now."""

    # ---- dense

    @abstractmethod
    def embed(self, table: Weight, batch: Batch, *, scale: float = 1.0) -> Array:
        """Rows of `table` for batch.tokens (or batch.embeds in place), times scale: [N, cols]"""

    @abstractmethod
    def add_positions(self, x: Array, table: Weight, batch: Batch, *, offset: int = 0) -> Array:
        """x plus the rows of `table` at batch.positions + offset (learned positions)."""

    @abstractmethod
    def logits(self, x: Array, weight: Weight, bias: Array | None = None) -> Array:
        """`linear` with its result in float32: [S, rows]."""

    @abstractmethod
    def linear(
        self, x: Array, weight: Weight, bias: Array | None = None, *, precise: bool = False
    ) -> Array:
        """x [N, cols] times weight transposed, plus bias: [N, rows]. Bitwise the same for a row
        whatever the other rows are. precise: errors would last (keys, values), so a backend that
        rounds activations rounds them less here."""

    @abstractmethod
    def heads_linear(self, x: Array, weight: Weight) -> Array:
        """Part h of x [N, count * cols] times member h of a stack, transposed: [N, count * rows].

        Absorbed latent attention: queries into the latent space, results out of it.
        """

    @abstractmethod
    def split(self, x: Array, widths: Sequence[int], *, heads: int = 1) -> tuple[Array, ...]:
        """Columns of x [N, heads * sum(widths)] as one activation [N, heads * width] for each of
        `widths`, every head cut alike."""

    @abstractmethod
    def concat(self, parts: Sequence[Array], *, heads: int = 1) -> Array:
        """The opposite of `split`: parts [N, heads * width_i] joined head by head."""

    # ---- norms (computed in float32, returned in the compute dtype)

    @abstractmethod
    def rms_norm(self, x: Array, weight: Array | None, eps: float, *, heads: int = 1) -> Array:
        """x / sqrt(mean(x^2) + eps) * weight over each of `heads` equal parts of a row."""

    @abstractmethod
    def layer_norm(
        self, x: Array, weight: Array | None, bias: Array | None, eps: float, *, heads: int = 1
    ) -> Array:
        """(x - mean) / sqrt(var + eps) * weight + bias, each of `heads` equal parts of a row."""

    @abstractmethod
    def add_rms_norm(
        self, x: Array, residual: Array, weight: Array | None, eps: float
    ) -> tuple[Array, Array]:
        """(rms_norm(x + residual), x + residual)."""

    # ---- elementwise

    @abstractmethod
    def add(self, x: Array, y: Array, *, wide: bool = False) -> Array:
        """x + y; wide: in float32, whatever the compute dtype, for a residual that is to stay so.
        The norm of it is in the compute dtype again."""

    @abstractmethod
    def multiply(self, x: Array, y: Array) -> Array:
        """x [N, width] times y, as wide or one column for all of a row (a gate)."""

    @abstractmethod
    def scale(self, x: Array, factor: float | Array) -> Array:
        """x times a number, or times a vector: one number for each column."""

    @abstractmethod
    def clip(self, x: Array, limit: float) -> Array:
        """x cut to -limit .. limit."""

    @abstractmethod
    def act(self, x: Array, kind: Activation) -> Array: ...

    @abstractmethod
    def gated(self, gate_up: Array, kind: Activation) -> Array:
        """act(gate) * up, where gate_up [N, 2 * width] holds gate, then up."""

    @abstractmethod
    def softcap(self, x: Array, cap: float) -> Array:
        """cap * tanh(x / cap)."""

    # ---- mixture of experts

    @abstractmethod
    def route(
        self,
        logits: Array,
        routing: Routing,
        *,
        bias: Array | None = None,
        scales: Array | None = None,
    ) -> tuple[Array, Array]:
        """Which experts each row takes and how much they weigh, from logits [N, experts].

        bias: float32 [experts], added to the scores for choosing only, not for weighing; scales:
        float32 [experts], factors on an expert's weight. Returns ids (the backend's own integers)
        and weights (float32), both [N, top_k] by ascending id. Where scores tie the lower id is
        taken. Without groups and bias the logits themselves are compared.
        """

    @abstractmethod
    def experts(
        self,
        x: Array,
        ids: Array,
        weights: Array | None,
        up: Weight,
        down: Weight,
        kind: Activation,
        *,
        up_bias: Array | None = None,
        down_bias: Array | None = None,
        limit: float | None = None,
    ) -> Array:
        """Sum over the row's experts e, in ascending order, of weights * (down_e(h) + down_bias_e):
        [N, down.rows].

        h = act(up_e x + up_bias_e) where up.rows == down.cols; gated where up.rows is twice that:
        rows of gate, then of up, h = act(gate) * up. limit (GPT-OSS): gate is cut to at most limit,
        up to -limit .. limit, and h = act(gate) * (up + 1). weights None: all one.
        """

    # ---- positions and attention

    @abstractmethod
    def scale_by_position(
        self, x: Array, factors: Array, batch: Batch, *, every: int = 1, offset: int = 0
    ) -> Array:
        """The row of x at position p times factors[(p + offset) // every], the last factor beyond
        the end (attention temperature that grows with the position)."""

    @abstractmethod
    def rope(self, x: Array, spec: RopeSpec, batch: Batch, *, heads: int) -> Array:
        """Rotate each of `heads` equal parts of x [N, heads * head_dim] by batch.positions."""

    @abstractmethod
    def attend(
        self,
        q: Array,
        k: Array | None,
        v: Array | None,
        where: StateRef,
        batch: Batch,
        *,
        heads: int,
        scale: float,
        window: int | None = None,
        chunk: int | None = None,
        softcap: float | None = None,
        slopes: Array | None = None,
        sinks: Array | None = None,
        causal: bool = True,
    ) -> Array:
        """Write k, v of this step to the cache, then attention of q over each sequence's keys.

        q [N, heads * k_dim], k [N, kv_heads * k_dim], v [N, kv_heads * v_dim] ->
        [N, heads * v_dim]. k and v None: another layer has written them at `where`. A state that
        keeps no values (v_dim 0, latent attention) takes them from the first columns of each key;
        v then only says how many.
        window: a query at p sees keys p - window + 1 .. p; chunk: keys of its own chunk p // chunk
        alone (at most one of the two). softcap bends the scores, then slopes (float32 [heads],
        ALiBi) add slope * (key's position - query's). sinks: float32 [heads], one more score whose
        value is zero.
        causal False: a query sees the keys after its own too (all of them, or with a window up to
        p + window - 1), so all rows of a sequence are in one step; in a state that has lengths of
        its own (`CrossKV`) the keys are a source's. There is no chunk and there are no slopes then.
        A row's result depends bitwise on its own sequence alone: keys are taken in spans at
        absolute positions 0, 256, ..., partial results combined in span order.
        """
