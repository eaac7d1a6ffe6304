"""What a backend is to the rest: settings it refuses, dtypes, held formats, state, a model to run.

One row of `BACKENDS` (ops/backends.py) names each; nothing else knows a backend by name. Imports no
torch and no kernels: a backend's own modules are imported when it is asked to make something.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from rbee_worker.ops.batch import Array, Batch, StepNumbers
from rbee_worker.state.specs import StateGroup

if TYPE_CHECKING:
    from rbee_worker.checkpoint import Checkpoint
    from rbee_worker.config import Settings
    from rbee_worker.models.base import Decoder
    from rbee_worker.ops import Ops
    from rbee_worker.ops.plan import PlanOps

Progress = Callable[[int, int, str], None]  # (done, of, the last one's name)


class Refusal(NamedTuple):
    """Why a backend cannot serve some settings here, and what to do: two sentences."""

    why: str
    fix: str


class StateMemory(Protocol):
    """All state of all sequences in a backend's memory. Zeroed; slot 0 and block 0 are sinks."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, touched or not."""
        ...

    def stage(self, numbers: StepNumbers) -> Batch:
        """The batch that a model computes, good until the next call. The same `numbers` object may
        come again with other numbers in it; a backend that overlaps steps has copied them when
        this returns."""
        ...

    def clear(self, slots: Sequence[int]) -> None:
        """These slots of every fixed group start from zero."""
        ...

    def copy(self, slots: Sequence[tuple[int, int]]) -> None:
        """Fixed state of slot `source` to slot `target`, for each pair, in every fixed group."""
        ...


class Executable(Protocol):
    """A model that computes batches: what the engine's runner needs of one.

    What a call returns may be overwritten by the next one. Where steps overlap, what the last call
    of a step returned stays until the second `StateMemory.stage` after that step's, because its
    log-probabilities are computed when it is collected.
    """

    @property
    def groups(self) -> tuple[StateGroup, ...]: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def context(self) -> int: ...

    def hidden(self, batch: Batch) -> Array:
        """N rows -> [N, dim]"""
        ...

    def head(self, rows: Array) -> Array:
        """[S, dim] -> logits float32 [S, vocab]"""
        ...

    def logits(self, batch: Batch) -> Array:
        """head(hidden(batch)[batch.sample_rows]), bit for bit, and sooner if it can be"""
        ...


class Backend(ABC):
    """How models are computed on one kind of device. Made for some settings, before any model."""

    name: str  # what --backend calls it
    title: str  # for people: "compiled CPU kernels"
    buckets: bool = False  # decoding steps are padded to 1, 2, 4, 8 .. sequences
    # Calls return before their results are there, so that the engine can plan and hand over the
    # next step meanwhile; everything is done in the order it was handed over.
    overlaps: bool = False

    @abstractmethod
    def refuses(self, settings: Settings) -> Refusal | None:
        """Why these settings cannot be served here; None where they can."""

    @abstractmethod
    def compute_dtype(self, settings: Settings, kind: str, formats: dict[str, int]) -> str:
        """The dtype that activations are computed in. kind: "safetensors" or "gguf"; formats: bytes
        by format of the checkpoint's tensors."""

    @abstractmethod
    def kv_dtype(self, settings: Settings, dtype: str, packed: bool) -> str:
        """The dtype keys and values are kept in. Raises UsageError for what cannot be kept."""

    @abstractmethod
    def plan(self, dtype: str) -> PlanOps:
        """Counts what this backend would hold of a model, as `dtype`; reads no weights."""

    @abstractmethod
    def prepare(
        self, ckpt: Checkpoint, settings: Settings, kv_dtype: str, progress: Progress
    ) -> None:
        """Make what takes long and needs no weights: compile kernels. Raises ModelError."""

    @abstractmethod
    def ops(self, settings: Settings, dtype: str, *, weight_bytes: int) -> Ops:
        """The operations a model is built with. weight_bytes: what it will hold, as planned."""

    @abstractmethod
    def state(
        self,
        ops: Ops,
        groups: Sequence[StateGroup],
        n_blocks: Sequence[int],
        n_slots: int,
        *,
        block_size: int,
        dtype: str,
    ) -> StateMemory:
        """Zeroed memory for a pool of so many blocks a group and slots; dtype: of keys, values."""

    @abstractmethod
    def executable(
        self, model: Decoder, ops: Ops, settings: Settings, *, kv_dtype: str, longest: int
    ) -> Executable:
        """What the engine runs. longest: tokens of a sequence at most."""

    @abstractmethod
    def free_bytes(self, settings: Settings) -> int:
        """Bytes that weights and state may still take where this backend keeps them."""

    @abstractmethod
    def fast(self) -> frozenset[str]:
        """Operations of `Ops` that have kernels of this backend's own."""
