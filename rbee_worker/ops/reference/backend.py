"""`ReferenceBackend`: plain torch operations, the definition of correct results."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.extras import missing
from rbee_worker.machine import allowed_cores, available_memory
from rbee_worker.ops.adapted import sites_for
from rbee_worker.ops.backend import Backend, Kept, ModelOutline, Prepared, Progress, Refusal, Warmed
from rbee_worker.ops.batch import Array
from rbee_worker.ops.cpu_options import cpu_only
from rbee_worker.ops.executable import Executable, StateMemory
from rbee_worker.ops.gpu_options import gpu_only
from rbee_worker.ops.plan import DTYPE_BYTES, PlanOps

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder
    from rbee_worker.ops import Ops
    from rbee_worker.state.pool import StatePool


@dataclass(frozen=True)
class _Nothing:
    """What `prepare` makes here."""

    notes: tuple[str, ...] = ()


class ReferenceBackend(Backend):
    """torch on the CPU, in any float dtype."""

    name = "reference"
    title = "plain torch operations, slow"

    def refuses(self, settings: Settings) -> Refusal | None:
        only = gpu_only(settings) or cpu_only(settings)
        if only is not None:
            return only
        absent = missing("torch")
        return None if absent is None else Refusal(*absent)

    def preload(self) -> None:
        """Nothing to import: torch is imported only when it is certainly needed."""

    def compute_dtype(self, settings: Settings, kind: str, formats: dict[str, int]) -> str:
        """f32 for GGUF files; for safetensors files, the dtype of most of their bytes."""
        if settings.dtype != "auto":
            return settings.dtype
        if kind == "gguf" or not formats:
            return "f32"
        most = max(formats, key=lambda name: formats[name])
        return {"BF16": "bf16", "F16": "f16"}.get(most, "f32")

    def kv_dtype(self, settings: Settings, dtype: str, packed: bool) -> str:
        if settings.kv_dtype in ("i8", "f8"):
            raise UsageError(
                f"--kv-dtype {settings.kv_dtype}: the reference backend has no 8-bit cache.",
                fix="use --kv-dtype f16, or i8 with --backend cpu.",
            )
        if settings.kv_dtype != "auto":
            return settings.kv_dtype
        return "f16" if packed else dtype

    def activations(self, settings: Settings, dtype: str, formats: Collection[str]) -> str:
        return dtype

    def plan_ops(self, dtype: str, settings: Settings | None = None) -> PlanOps:
        return PlanOps(dtype)

    def fast(self) -> frozenset[str]:
        return frozenset()

    def free_bytes(self, settings: Settings) -> int:
        return available_memory()

    def prepare(
        self, outline: ModelOutline, settings: Settings, kv_dtype: str, progress: Progress
    ) -> Prepared:
        """Nothing to compile."""
        return _Nothing()

    def warm(
        self,
        outlines: Sequence[tuple[ModelOutline, str]],
        settings: Settings,
        targets: Sequence[str],
        progress: Callable[[str, int, int, str], None],
    ) -> Iterator[Warmed]:
        _no_kernels()

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
        import torch

        from rbee_worker.ops.reference.ops import ReferenceOps

        torch.set_num_threads(settings.threads or allowed_cores())
        ops = ReferenceOps("cpu", dtype, sites=sites_for(settings))
        ops.mtp = settings.mtp
        return ops

    def state(self, ops: Ops, pool: StatePool, dtype: str) -> StateMemory:
        from rbee_worker.ops.reference.state import TorchState

        return TorchState(
            pool.groups,
            pool.n_blocks,
            pool.n_slots,
            block_size=pool.block_size,
            dtype=dtype,
            device=ops.device,
            features=pool.features,
        )

    def executable(
        self, model: Decoder, settings: Settings, *, kv_dtype: str, longest: int
    ) -> Executable:
        from rbee_worker.ops.reference.model import ReferenceModel

        return ReferenceModel(model)

    def columns(self, logits: Array, vocab: int) -> Array:
        from torch.nn.functional import pad

        return pad(logits, (0, vocab - logits.shape[1]), value=float("-inf"))

    def pieces(self, model: Decoder, *, tokens: int, block_size: int, kv_dtype: str) -> Any:
        from rbee_worker.ops.reference.stepwise import ReferenceStepwise

        return ReferenceStepwise(model)

    def bytes_per_token(self, outline: ModelOutline, settings: Settings, dtype: str) -> int:
        from rbee_worker.ops.cpu.backend.bytes_read import numbers_read

        return numbers_read(outline, settings) * DTYPE_BYTES[dtype]

    def read_gb_s(self, settings: Settings) -> float:
        from rbee_worker.ops.cpu.backend.cpu import BACKEND as CPU

        return CPU.read_gb_s(settings)  # the same memory


def _no_kernels() -> NoReturn:
    raise UsageError(
        "--backend reference has no kernels to compile.", fix="use --backend cpu, or leave it."
    )


BACKEND = ReferenceBackend()
