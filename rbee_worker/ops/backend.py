"""What a backend is to the rest: settings it refuses, dtypes, held formats, state, a model to run.

One row of `ops/backends.py` names each; nothing else knows a backend by its name. Imports no torch
and no kernels: a backend's own modules are imported when it is asked to make something.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rbee_worker.ops.batch import Array, Batch, StepNumbers
from rbee_worker.state.specs import StateGroup

if TYPE_CHECKING:
    from rbee_worker.config import Settings
    from rbee_worker.models.base import Decoder
    from rbee_worker.ops import Ops
    from rbee_worker.ops.plan import PlanOps

Progress = Callable[[int, int, str], None]  # (done, of, the last one's name)


class Refusal(NamedTuple):
    """Why a backend cannot serve some settings here, and what to do: two sentences."""

    why: str
    fix: str


@dataclass(frozen=True)
class ModelOutline:
    """A model that can be built without reading its weights.

    key: equal for models of the same shapes and formats. build: makes it with operations that hold
    nothing. context: the longest sequence it was made for, tokens.
    """

    key: str
    context: int
    build: Callable[[Ops], Decoder]


class Prepared(Protocol):
    """What `Backend.prepare` made, for `Backend.ops` to take."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it, in lines; complete once a model is recorded."""
        ...


class Warmed(NamedTuple):
    """What `warm` did for a target: its name, kernels in all and made now, where they are kept."""

    target: str
    kernels: int
    made: int
    seconds: float
    folder: Path


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
    """How models are computed on one kind of device."""

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
    def preload(self) -> None:
        """Import what any model will need, while it is not known yet which. Raises ImportError."""

    # ---- before any weight is read

    @abstractmethod
    def compute_dtype(self, settings: Settings, kind: str, formats: dict[str, int]) -> str:
        """The dtype that activations are computed in: the one asked for, else a default.

        kind: "safetensors" or "gguf"; formats: bytes by format of the checkpoint's tensors.
        """

    @abstractmethod
    def kv_dtype(self, settings: Settings, dtype: str, packed: bool) -> str:
        """The dtype that keys and values are kept in. packed: the file's weights are quantized.

        Raises UsageError for what cannot be kept.
        """

    @abstractmethod
    def activations(self, settings: Settings, dtype: str, packed: bool) -> str:
        """What products with the model's matrices take: "i8" where activations are rounded to 8
        bits, else `dtype`. packed: the file's weights are quantized."""

    @abstractmethod
    def plan_ops(self, dtype: str) -> PlanOps:
        """Operations that count what this backend would hold of a model computed in `dtype`."""

    @abstractmethod
    def fast(self) -> frozenset[str]:
        """Operations of `Ops` that have kernels of this backend's own."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Bytes that weights and state may still take where this backend keeps them."""

    @abstractmethod
    def prepare(
        self, outline: ModelOutline, settings: Settings, kv_dtype: str, progress: Progress
    ) -> Prepared:
        """Make what takes long and needs no weights: compile kernels. Raises ModelError."""

    @abstractmethod
    def warm(
        self,
        outlines: Sequence[tuple[ModelOutline, str]],
        settings: Settings,
        targets: Sequence[str],
        progress: Callable[[str, int, int, str], None],
    ) -> Iterator[Warmed]:
        """Compile what models need, each with its kv_dtype, for `targets` (none: this machine).

        progress: (target, done, of, the last one's name). Raises UsageError for an unknown target.
        """

    # ---- a model that runs

    @abstractmethod
    def ops(
        self,
        settings: Settings,
        dtype: str,
        *,
        weight_bytes: int,
        progress: Progress,
        prepared: Prepared | None = None,
    ) -> Ops:
        """The operations a model is built with. weight_bytes: what it will hold, as planned.

        prepared: what `prepare` of this backend returned; without, all of it is made when needed.
        """

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
        self, model: Decoder, settings: Settings, *, kv_dtype: str, longest: int
    ) -> Executable:
        """What the engine runs. longest: tokens of a sequence at most."""

    @abstractmethod
    def pieces(self, model: Decoder, *, tokens: int, block_size: int, kv_dtype: str) -> Any:
        """The model as `verify` runs it, layer by layer (`verify.whole.Pieces`)."""

    # ---- measuring

    @abstractmethod
    def bytes_per_token(self, outline: ModelOutline, settings: Settings, dtype: str) -> int:
        """Bytes of weights that decoding one token of one sequence reads; the cache not counted."""

    @abstractmethod
    def read_gb_s(self, settings: Settings) -> float:
        """How fast the memory that holds weights can be read: the ceiling of decoding."""
