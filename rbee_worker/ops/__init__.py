"""THE vocabulary: every tensor operation a model may use. One abstract class, one backend each.

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

if TYPE_CHECKING:
    from torch import Tensor

    from rbee_worker.checkpoint.formats import Packed
    from rbee_worker.ops.batch import Batch
    from rbee_worker.state.specs import StateRef

Activation = Literal["silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2"]


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

    `data` belongs to the backend. Vectors (norm weights, biases) have rows == 1.
    """

    data: Any
    rows: int
    cols: int
    format: str  # the file's
    held: str
    nbytes: int  # as held


class Ops(ABC):
    """A backend. `device` and `dtype` (compute) are fixed for its life."""

    name: str
    device: str
    dtype: str  # "f32", "bf16", "f16"

    # ---- weights

    @abstractmethod
    def matrix(self, parts: Sequence[Packed]) -> Weight:
        """Hold matrices [out_i, in] for `linear`, `embed` and `experts`, rows stacked in order.

        Each part keeps the format it was found in until the backend decides how to hold it.
        """

    @abstractmethod
    def vector(self, parts: Sequence[Packed]) -> Tensor:
        """Float vectors (norm weights, biases) one after another, held in float32."""

    # ---- dense

    @abstractmethod
    def embed(self, table: Weight, batch: Batch, *, scale: float = 1.0) -> Tensor:
        """Rows of `table` for batch.tokens (or batch.embeds in place), times scale: [N, cols]"""

    @abstractmethod
    def logits(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """`linear` with its result in float32: [S, rows]."""

    @abstractmethod
    def linear(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        """x [N, cols] times weight transposed, plus bias: [N, rows]. Bitwise the same for a row
        whatever the other rows are."""

    @abstractmethod
    def split(self, x: Tensor, widths: Sequence[int]) -> tuple[Tensor, ...]:
        """Columns of x [N, sum(widths)] as one activation for each width."""

    @abstractmethod
    def rows(self, x: Tensor, index: Tensor) -> Tensor:
        """Rows of x [N, width] at index [S]: [S, width]."""

    # ---- norms (computed in float32, returned in the compute dtype)

    @abstractmethod
    def rms_norm(self, x: Tensor, weight: Tensor | None, eps: float, *, heads: int = 1) -> Tensor:
        """x / sqrt(mean(x^2) + eps) * weight over each of `heads` equal parts of a row."""

    @abstractmethod
    def layer_norm(
        self, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, *, heads: int = 1
    ) -> Tensor:
        """(x - mean) / sqrt(var + eps) * weight + bias, each of `heads` equal parts of a row."""

    @abstractmethod
    def add_rms_norm(
        self, x: Tensor, residual: Tensor, weight: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor]:
        """(rms_norm(x + residual), x + residual)."""

    # ---- elementwise

    @abstractmethod
    def add(self, x: Tensor, y: Tensor) -> Tensor: ...

    @abstractmethod
    def scale(self, x: Tensor, factor: float) -> Tensor: ...

    @abstractmethod
    def act(self, x: Tensor, kind: Activation) -> Tensor: ...

    @abstractmethod
    def gated(self, gate_up: Tensor, kind: Activation) -> Tensor:
        """act(gate) * up, where gate_up [N, 2 * width] holds gate, then up."""

    @abstractmethod
    def softcap(self, x: Tensor, cap: float) -> Tensor:
        """cap * tanh(x / cap)."""

    # ---- positions and attention

    @abstractmethod
    def rope(self, x: Tensor, spec: RopeSpec, batch: Batch, *, heads: int) -> Tensor:
        """Rotate each of `heads` equal parts of x [N, heads * head_dim] by batch.positions."""

    @abstractmethod
    def attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        where: StateRef,
        batch: Batch,
        *,
        heads: int,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
    ) -> Tensor:
        """Write k, v of this step to the cache, then causal attention of q over each sequence.

        q [N, heads * k_dim], k [N, kv_heads * k_dim], v [N, kv_heads * v_dim] ->
        [N, heads * v_dim]. `window`: a query at p sees keys p - window + 1 .. p.
        A row's result depends bitwise on its own sequence alone: keys are taken in spans at
        absolute positions 0, 256, ..., partial results combined in span order.
        """
