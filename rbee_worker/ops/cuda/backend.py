"""`CudaBackend`: models on an NVIDIA GPU, by our own Triton kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.extras import missing
from rbee_worker.machine import available_memory
from rbee_worker.ops.backend import (
    Backend,
    Executable,
    Kept,
    ModelOutline,
    Prepared,
    Progress,
    Refusal,
    StateMemory,
    Warmed,
)
from rbee_worker.ops.plan import DTYPE_BYTES, PlanOps

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder
    from rbee_worker.ops import Ops
    from rbee_worker.state.pool import StatePool

_RESIDENT_SHARE = 0.6  # of the free memory, for weights with floats of packed matrices
DEVICES = ("nvidia0", "nvidia1", "nvidiactl", "dxg")  # in /dev, where a driver is loaded


@dataclass(frozen=True)
class _Plan:
    """What `prepare` decides: whether floats of packed matrices are kept too."""

    resident: bool
    notes: tuple[str, ...] = ()


class CudaBackend(Backend):
    """Our own kernels on one NVIDIA GPU; see the package's `device_ops.py`."""

    name = "cuda"
    title = "Triton kernels on an NVIDIA GPU"
    buckets = True
    overlaps = True

    def refuses(self, settings: Settings) -> Refusal | None:
        pretended = _interpreted() and settings.backend == self.name  # never for `auto`
        if not pretended and not any(Path("/dev", name).exists() for name in DEVICES):
            return Refusal(
                "no NVIDIA GPU is visible here (no /dev/nvidia*).",
                "use --backend cpu, or give this process or container the GPU and its driver.",
                absent=True,
            )
        if settings.attention == "reference":
            return Refusal(
                "--attention reference: the cuda backend has its own attention only.",
                "use --attention auto.",
            )
        for module in ("torch", "triton"):
            absent = missing(module)
            if absent is not None:
                return Refusal(*absent)
        return None

    def preload(self) -> None:
        import torch  # noqa: F401
        import triton  # noqa: F401

    def compute_dtype(self, settings: Settings, kind: str, formats: dict[str, int]) -> str:
        """bf16 where the GPU has it, in the interpreter f32."""
        if settings.dtype != "auto":
            return settings.dtype
        return "f32" if _interpreted() else "bf16"

    def kv_dtype(self, settings: Settings, dtype: str, packed: bool) -> str:
        if settings.kv_dtype == "i8":
            raise UsageError(
                "--kv-dtype i8: the cuda backend has no cache of 8-bit integers.",
                fix="use --kv-dtype f8, bf16 or f16.",
            )
        return dtype if settings.kv_dtype == "auto" else settings.kv_dtype

    def activations(self, settings: Settings, dtype: str, packed: bool) -> str:
        return "i8" if packed and not settings.exact_activations else dtype

    def plan_ops(self, dtype: str) -> PlanOps:
        """Without floats of packed matrices, which are kept only where there is room."""
        return self._plan_ops(dtype, resident=False)

    def _plan_ops(self, dtype: str, *, resident: bool) -> PlanOps:
        from rbee_worker.ops.cuda.plan import CudaPlanOps

        return CudaPlanOps(dtype, resident=resident)

    def fast(self) -> frozenset[str]:
        from rbee_worker.ops.cuda.device_ops import NATIVE

        return NATIVE

    def free_bytes(self) -> int:
        if _interpreted():
            return available_memory()
        import torch

        free, _ = torch.cuda.mem_get_info()
        return free

    def prepare(
        self, outline: ModelOutline, settings: Settings, kv_dtype: str, progress: Progress
    ) -> Prepared:
        """Triton compiles a kernel when it is first launched, and keeps it. What is decided here is
        whether there is memory for floats of packed matrices."""
        dtype, notes = self.compute_dtype(settings, "", {}), []
        both = self._plan_ops(dtype, resident=True)
        outline.build(cast("Ops", both))
        packed = [name for name in both.held_bytes if " and " in name]
        if settings.quantize == "fp8":
            if packed and not both.held_bytes.get(dtype):
                raise UsageError(
                    "--quantize fp8: all matrices of this model are packed already.",
                    fix="leave the option out.",
                )
            notes.append("matrices of floats are kept in 8 bits, stacks of experts are not")
        if not packed:
            return _Plan(True, tuple(notes))
        if settings.exact_activations:
            return _Plan(True, (*notes, "packed matrices are kept as floats"))
        resident = sum(both.held_bytes.values()) < _RESIDENT_SHARE * self.free_bytes()
        kept = "are kept as floats too" if resident else "are made floats each time"
        notes.append(f"packed matrices {kept}, for steps of more than 4 rows")
        return _Plan(resident, tuple(notes))

    def warm(
        self,
        outlines: Sequence[tuple[ModelOutline, str]],
        settings: Settings,
        targets: Sequence[str],
        progress: Callable[[str, int, int, str], None],
    ) -> Iterator[Warmed]:
        raise UsageError(
            "--backend cuda: kernels are compiled when they are first used, and kept.",
            fix="run the model once.",
        )

    def ops(
        self,
        settings: Settings,
        dtype: str,
        *,
        weight_bytes: int,
        progress: Progress,
        prepared: Prepared | None = None,
        kept: Kept | None = None,
    ) -> Ops:
        import torch

        from rbee_worker.ops.cuda.ops import CudaOps

        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        forms: dict[str, bool] = {
            "planes": not settings.exact_activations,
            "resident": not isinstance(prepared, _Plan) or prepared.resident,
            "f8": settings.quantize == "fp8",
        }
        if _interpreted():
            return CudaOps("cpu", dtype, **forms)
        pdl = torch.cuda.get_device_capability()[0] >= 9
        return CudaOps("cuda", dtype, pdl=pdl, **forms)

    def state(self, ops: Ops, pool: StatePool, dtype: str) -> StateMemory:
        from rbee_worker.ops.cuda.ops import CudaOps
        from rbee_worker.ops.cuda.state import CudaState

        assert isinstance(ops, CudaOps)
        return CudaState(
            pool.groups,
            pool.n_blocks,
            pool.n_slots,
            block_size=pool.block_size,
            dtype=dtype,
            device=ops.device,
            drawn=ops.drawn,
        )

    def executable(
        self, model: Decoder, settings: Settings, *, kv_dtype: str, longest: int
    ) -> Executable:
        from rbee_worker.ops.cuda.model import CudaModel

        return CudaModel(model, graphs=not _interpreted())

    def pieces(self, model: Decoder, *, tokens: int, block_size: int, kv_dtype: str) -> Any:
        from rbee_worker.ops.cuda.stepwise import CudaStepwise

        return CudaStepwise(model)

    def bytes_per_token(self, outline: ModelOutline, settings: Settings, dtype: str) -> int:
        from rbee_worker.ops.cpu.backend.bytes_read import numbers_read

        return numbers_read(outline, settings) * DTYPE_BYTES[dtype]

    def read_gb_s(self, settings: Settings) -> float:
        from rbee_worker.ops.cuda.bandwidth import read_gb_s

        return read_gb_s()


def _interpreted() -> bool:
    """Do kernels run as Python on the CPU (Triton's interpreter), as tests without a GPU do?"""
    return os.environ.get("TRITON_INTERPRET") == "1"


BACKEND = CudaBackend()
