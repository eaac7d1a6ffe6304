"""What a backend provides: refusals of settings, dtypes, weight formats, state, a model to run.

A row of `ops/backends.py` names each backend; no other code knows a backend by its name. Imports no
torch and no kernels: a backend imports its own modules when it has to make something.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rbee_worker.errors import UsageError
from rbee_worker.kept_memory import KeptMemory
from rbee_worker.ops.batch import Array
from rbee_worker.ops.executable import Executable, StateMemory

if TYPE_CHECKING:
    from rbee_worker.config import Settings
    from rbee_worker.models.base import Decoder
    from rbee_worker.ops import Ops
    from rbee_worker.ops.plan import PlanOps
    from rbee_worker.state.pool import StatePool

Progress = Callable[[int, int, str], None]  # (done, total, name of the last one)


class Refusal(NamedTuple):
    """Why a backend cannot serve some settings here, and the fix: two sentences.

    absent: the machine has no such device, so nobody expects it to be used.
    """

    why: str
    fix: str
    absent: bool = False


@dataclass(frozen=True)
class ModelOutline:
    """A model that can be built without reading its weights.

    key: equal for models with the same shapes and formats. build: makes the model with operations
    that store nothing. context: the longest sequence it was made for, in tokens.
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


class Kept(NamedTuple):
    """Memory that outlives this engine, and what is to be in it: a key of 32 bytes, equal only for
    the same weights held in the same way."""

    memory: KeptMemory
    key: bytes


class Warmed(NamedTuple):
    """The result of `warm` for one target: its name, all kernels, newly made ones, their
    directory. note: what a person should know, or ""."""

    target: str
    kernels: int
    made: int
    seconds: float
    folder: Path
    note: str = ""


class DeviceMemory(NamedTuple):
    """Bytes of a device's memory: used by anybody, held by this process, and all there are."""

    used: int
    own: int
    total: int


class DeviceGauge(Protocol):
    """What can be said of a device while it computes."""

    def memory(self) -> DeviceMemory:
        """Its memory now."""
        ...

    def floor_s(self, lens: Iterable[int]) -> float:
        """The seconds that reading weights and cache takes at the memory's measured rate, in a step
        in which sequences of these lengths decode one token each."""
        ...


class Backend(ABC):
    """How models are computed on one kind of device."""

    name: str  # the value of --backend
    title: str  # for messages: "compiled CPU kernels"
    buckets: bool = False  # whether decoding steps are padded to a few numbers of sequences
    # Whether calls return before their results exist, so that the engine can plan and launch the
    # next step meanwhile; everything is done in the order of the calls.
    overlaps: bool = False
    threaded: bool = True  # whether the threads of --threads compute
    warms: bool = False  # whether kernels are compiled before a model is loaded (`warm`)

    @abstractmethod
    def refuses(self, settings: Settings) -> Refusal | None:
        """Why these settings cannot be served here; None if they can."""

    @abstractmethod
    def preload(self) -> None:
        """Import what every model needs, before the model is known. Raises ImportError."""

    # ---- before any weight is read

    @abstractmethod
    def compute_dtype(self, settings: Settings, kind: str, formats: dict[str, int]) -> str:
        """The dtype of activations: the one in the settings, or else a default.

        kind: "safetensors" or "gguf"; formats: bytes by format of the checkpoint's tensors.
        """

    @abstractmethod
    def kv_dtype(self, settings: Settings, dtype: str, packed: bool) -> str:
        """The dtype of the cache. packed: whether the file's weights are quantized.

        Raises UsageError for a dtype that this backend cannot store.
        """

    @abstractmethod
    def activations(self, settings: Settings, dtype: str, formats: Collection[str]) -> str:
        """The form of the activations in products with the model's matrices: "i8" if they are
        rounded to 8 bits, "bf16" if to that, else `dtype`. formats: of the file's weights."""

    @abstractmethod
    def plan_ops(self, dtype: str, settings: Settings | None = None) -> PlanOps:
        """Operations that count what this backend would store for a model computed in `dtype`.
        settings: None for the defaults."""

    @abstractmethod
    def fast(self) -> frozenset[str]:
        """The operations of `Ops` that have kernels of this backend's own."""

    @abstractmethod
    def free_bytes(self, settings: Settings) -> int:
        """Bytes that are still free for weights and state, in the memory where this backend stores
        them, as far as the settings let this worker use it."""

    @abstractmethod
    def prepare(
        self, outline: ModelOutline, settings: Settings, kv_dtype: str, progress: Progress
    ) -> Prepared:
        """Do slow work that needs no weights: compile kernels. Raises ModelError."""

    @abstractmethod
    def warm(
        self,
        outlines: Sequence[tuple[ModelOutline, str]],
        settings: Settings,
        targets: Sequence[str],
        progress: Callable[[str, int, int, str], None],
    ) -> Iterator[Warmed]:
        """Compile what models need, each with its kv_dtype, for `targets` (empty: this machine).

        progress: (target, done, total, name of the last one). Raises UsageError for an unknown
        target.
        """

    def kernels(self) -> tuple[Path, int]:
        """Where compiled kernels are kept, and how many; of a backend that does not warm: it
        compiles them when they are first used (`loading/run_once.py`)."""
        raise UsageError(
            f"--backend {self.name} has no kernels to compile.", fix="use another --backend."
        )

    def tune(
        self,
        outline: ModelOutline,
        settings: Settings,
        dtype: str,
        told: Callable[[int, int, str], None],
    ) -> str:
        """Measure what kernels can choose for a model computed in `dtype`, and keep it for later
        starts. told: (done, total, name of the last one). Returns why it could not be kept, or ""
        (also where there is no choice)."""
        return ""

    def tuned(self, settings: Settings) -> list[str]:
        """What `tune` has kept here, in lines for people."""
        return []

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
        kept: Kept | None = None,
        beside: Ops | None = None,
    ) -> Ops:
        """The operations to build a model with. weight_bytes: the planned size of its weights.

        prepared: what `prepare` of this backend returned; without it, all is made when needed.
        kept: where the weights may be held so that the engine after this one has them at once.
        beside: those of another model in this process, which never computes at the same time.
        """

    @abstractmethod
    def state(self, ops: Ops, pool: StatePool, dtype: str) -> StateMemory:
        """Zeroed memory for the blocks and slots of `pool`; dtype: of keys and values."""

    @abstractmethod
    def executable(
        self, model: Decoder, settings: Settings, *, kv_dtype: str, longest: int
    ) -> Executable:
        """The model as the engine runs it. longest: the most tokens of a sequence."""

    def gauge(
        self, outline: ModelOutline, settings: Settings, dtype: str, kv_dtype: str
    ) -> DeviceGauge | None:
        """The device's gauge, for a model that is loaded; None: there is none."""
        return None

    def columns(self, logits: Array, vocab: int) -> Array:
        """Logits of another model with `vocab` columns: without those after them, and -inf for
        those that it lacks. Only of a backend that takes --draft-model."""
        raise AssertionError(f"no second model on {self.name}")

    @abstractmethod
    def pieces(self, model: Decoder, *, tokens: int, block_size: int, kv_dtype: str) -> Any:
        """The model in pieces, which `verify` runs layer by layer (`verify.whole.Pieces`)."""

    # ---- measuring

    @abstractmethod
    def bytes_per_token(self, outline: ModelOutline, settings: Settings, dtype: str) -> int:
        """Bytes of weights that one token of one sequence reads in decoding, without the cache."""

    def readings(self, settings: Settings) -> dict[str, dict[str, Any]]:
        """How kernels read weights here, as was measured at an earlier start; by kernel: `held`,
        the format of the weights, `way`, and `gb_s`, the rates of all ways (none if the way was
        not measured but asked for). Empty where a backend has no choice."""
        return {}

    def instructions(self, settings: Settings) -> str:
        """The instruction set that kernels are compiled for; "" where that is no choice. Raises
        UsageError if another one is asked for than this machine has."""
        return ""

    @abstractmethod
    def read_gb_s(self, settings: Settings) -> float:
        """The read bandwidth of the memory that has the weights, which bounds decoding speed."""
