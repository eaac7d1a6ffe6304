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
from typing import TYPE_CHECKING

from rbee_worker.errors import UnsupportedModel
from rbee_worker.ops.gated_delta import GatedDelta
from rbee_worker.ops.operands import Activation, RopeSpec, Routing, Weight
from rbee_worker.ops.recurrences import Recurrences
from rbee_worker.ops.rg_lru import RgLru
from rbee_worker.ops.taylor import Taylor
from rbee_worker.ops.wkv import Wkv

if TYPE_CHECKING:
    from rbee_worker.checkpoint.formats import Packed
    from rbee_worker.ops.adapted import AdapterMemory, Site, Sites
    from rbee_worker.ops.batch import Array, Batch
    from rbee_worker.ops.sampling import Sampling
    from rbee_worker.state.specs import StateRef

__all__ = ["OPERATIONS", "Activation", "Ops", "RopeSpec", "Routing", "Weight"]


class Ops(Recurrences, RgLru, GatedDelta, Taylor, Wkv, ABC):
    """A backend's operations. `device` and `dtype` (of computing) never change. sites: where
    adapters may add to the model that is built with these; None if there are to be none."""

    name: str
    device: str
    dtype: str  # "f32", "bf16", "f16"
    sites: Sites | None = None
    sees = True  # whether models are built with what reads pictures
    mtp = False  # whether models are built with their layer that predicts further tokens

    def lacks(self, operation: str) -> UnsupportedModel:
        """The error for an operation that this backend does not have. An operation that some
        backends lack is not abstract: its body here raises this."""
        return UnsupportedModel(
            f"the {self.name} backend does not have the operation {operation!r} of this model.",
            fix="pip install 'rbee-worker[torch]', and use --backend reference.",
        )

    @abstractmethod
    def sampling(self, vocab_size: int) -> Sampling:
        """The operations from a vocabulary's logits to tokens, on this backend's device."""

    @property
    def adapters(self) -> AdapterMemory:
        """The memory of loaded adapters; only where there are `sites`."""
        raise self.lacks("adapted")

    # ---- weights

    @abstractmethod
    def matrix(self, parts: Sequence[Packed]) -> Weight:
        """Store matrices [out_i, in] for `linear` and `embed`, with their rows stacked in order.

        Each part keeps the format of its file until the backend converts it.
        """

    @abstractmethod
    def stack(self, members: Sequence[Sequence[Packed]]) -> Weight:
        """Store several matrices of one shape for `experts` and `heads_linear`.

        Member i has its parts' rows in order, as in `matrix`; part j has the same shape and format
        in every member.
        """

    @abstractmethod
    def vector(self, parts: Sequence[Packed]) -> Array:
        """Store float vectors (norm weights, biases), one after another, in float32.

        A part with several rows (the biases of stacked experts) is stored row by row.
        """

    @abstractmethod
    def floats(self, packed: Packed) -> Packed:
        """The same values as F32, for weights that a family computes with while loading."""

    @abstractmethod
    def weights_done(self) -> None:
        """All weights have been passed: finish work on them that was deferred."""

    # ---- dense

    @abstractmethod
    def embed(self, table: Weight, batch: Batch, *, scale: float = 1.0) -> Array:
        """Rows of `table` for batch.tokens, times scale: [N, cols]"""

    @abstractmethod
    def add_positions(self, x: Array, table: Weight, batch: Batch, *, offset: int = 0) -> Array:
        """x plus the rows of `table` at batch.positions + offset (learned positions)."""

    def add_segments(self, x: Array, table: Weight, batch: Batch) -> Array:
        """x plus the rows of `table` at batch.segments (which of two texts a row belongs to). A
        table of one row tells them not apart: all rows get that one."""
        raise self.lacks("add_segments")

    def with_features(self, x: Array, batch: Batch) -> Array:
        """x [N, cols] with the rows replaced that features of pictures take (batch.features). x is
        not used after this; the result may take its memory."""
        raise self.lacks("with_features")

    @abstractmethod
    def logits(self, x: Array, weight: Weight, bias: Array | None = None) -> Array:
        """`linear` with its result in float32: [S, rows]."""

    @abstractmethod
    def linear(
        self, x: Array, weight: Weight, bias: Array | None = None, *, precise: bool = False
    ) -> Array:
        """x [N, cols] times the transposed weight, plus bias: [N, rows]. A row's result is bitwise
        independent of the other rows. precise: errors would persist (keys, values), so a backend
        that rounds activations rounds them less here."""

    def adapted(self, y: Array, x: Array, site: Site, batch: Batch) -> Array:
        """y [N, rows] plus scale * B (A x) of each row's adapter at this site, for x [N, cols], in
        float32. A row without an adapter, or whose adapter has nothing here, stays as it is. y is
        not used after this; the result may take its memory."""
        raise self.lacks("adapted")

    @abstractmethod
    def heads_linear(self, x: Array, weight: Weight) -> Array:
        """Part h of x [N, count * cols] times member h of a stack, transposed: [N, count * rows].

        Absorbed latent attention: queries into the latent space, results out of it.
        """

    @abstractmethod
    def split(self, x: Array, widths: Sequence[int], *, heads: int = 1) -> tuple[Array, ...]:
        """Cut x [N, heads * sum(widths)] into one activation [N, heads * width] for each of
        `widths`; every head is cut in the same way."""

    @abstractmethod
    def concat(self, parts: Sequence[Array], *, heads: int = 1) -> Array:
        """The inverse of `split`: parts [N, heads * width_i], joined head by head."""

    # ---- norms (computed in float32, returned in the compute dtype)

    @abstractmethod
    def rms_norm(self, x: Array, weight: Array | None, eps: float, *, heads: int = 1) -> Array:
        """x / sqrt(mean(x^2) + eps) * weight over each of `heads` equal parts of a row."""

    @abstractmethod
    def layer_norm(
        self, x: Array, weight: Array | None, bias: Array | None, eps: float, *, heads: int = 1
    ) -> Array:
        """(x - mean) / sqrt(var + eps) * weight + bias, each of `heads` equal parts of a row.

        weight and bias have the width of a part, or that of the row: then each part has its own.
        """

    @abstractmethod
    def add_rms_norm(
        self, x: Array, residual: Array, weight: Array | None, eps: float
    ) -> tuple[Array, Array]:
        """(rms_norm(x + residual), x + residual)."""

    # ---- elementwise

    @abstractmethod
    def add(self, x: Array, y: Array, *, wide: bool = False) -> Array:
        """x + y. wide: the result is float32 even if the compute dtype is narrower (a residual in
        float32); its norm is in the compute dtype again."""

    @abstractmethod
    def multiply(self, x: Array, y: Array) -> Array:
        """x [N, width] times y, which has the same width, or one column (a gate) for the whole
        row."""

    @abstractmethod
    def scale(self, x: Array, factor: float | Array) -> Array:
        """x times a number, or times a vector with one number per column."""

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
        """Which experts each row uses and with which weights, from logits [N, experts].

        bias: float32 [experts], added to the scores for the choice only, not for the weights;
        scales: float32 [experts], factors on an expert's weight. Returns ids (the backend's own
        integers) and weights (float32), both [N, top_k], by ascending id. If scores tie, the lower
        id is chosen. Without groups and bias, the logits themselves are compared.
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

        h = act(up_e x + up_bias_e) if up.rows == down.cols. If up.rows is twice that, the block is
        gated: rows of gate, then of up, and h = act(gate) * up. limit (GPT-OSS): gate is cut to at
        most limit, up to -limit .. limit, and h = act(gate) * (up + 1). weights None: all are one.
        """

    # ---- positions and attention

    @abstractmethod
    def scale_by_position(
        self, x: Array, factors: Array, batch: Batch, *, every: int = 1, offset: int = 0
    ) -> Array:
        """The row of x at position p times factors[(p + offset) // every], or the last factor
        beyond the end (an attention temperature that grows with the position)."""

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
        distances: Array | None = None,
        causal: bool = True,
    ) -> Array:
        """Write this step's k and v to the cache, then attend with q over each sequence's keys.

        q [N, heads * k_dim], k [N, kv_heads * k_dim], v [N, kv_heads * v_dim] ->
        [N, heads * v_dim]. k and v None: another layer has written them at `where`. A state that
        stores no values (v_dim 0, latent attention) takes them from the first columns of each key;
        v then only says how many. window: a query at p sees keys p - window + 1 .. p; chunk: only
        the keys of its own chunk p // chunk (at most one of the two). softcap bounds the scores
        with tanh, then slopes (float32 [heads], ALiBi) add slope * (key's position - query's).
        distances: float32 [heads, 2 * reach + 1], added to the scores: a number for each distance
        (key's position - query's) from -reach to reach, which keys farther away share; the first 16
        of a row are equal, and so are the last 16. No slopes then.
        sinks: float32 [heads], an additional score whose value is zero. causal False: a query also
        sees later keys (all of them, or with a window up to p + window - 1), so all rows of a
        sequence are in one step; in a state with lengths of its own (`CrossKV`) the keys are a
        source's. There are then no chunks and no slopes. With batch.until, a causal query
        sees keys up to that position, not up to its own. A row's result depends bitwise on its own
        sequence only: keys are processed in spans at absolute positions 0, 256, ..., and partial
        results are combined in span order.
        """

    def keep(self, k: Array, v: Array, where: StateRef, batch: Batch) -> None:
        """Write this step's k [N, kv_heads * k_dim] and v [N, kv_heads * v_dim] to the cache, for
        queries of later steps: the rows are those of a source (`CrossKV`)."""
        raise self.lacks("keep")


# Every operation, those that a backend may lack among them.
OPERATIONS = Ops.__abstractmethods__ | {
    *("previous", "lerp", "wkv", "wkv_delta", "taylor", "keep", "adapted"),
    "with_features",
}
