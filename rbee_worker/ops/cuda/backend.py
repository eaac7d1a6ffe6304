"""`CudaBackend`: models on an NVIDIA GPU, by our own Triton kernels."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rbee_worker.checkpoint.formats import is_packed
from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.extras import missing
from rbee_worker.machine import available_memory
from rbee_worker.ops.adapted import sites_for
from rbee_worker.ops.backend import (
    Backend,
    DeviceGauge,
    Kept,
    ModelOutline,
    Prepared,
    Progress,
    Refusal,
    Warmed,
)
from rbee_worker.ops.cpu_options import cpu_only
from rbee_worker.ops.cuda.keeping import CHOICES, chosen
from rbee_worker.ops.executable import Executable, StateMemory
from rbee_worker.ops.gpu_options import not_on_gpu
from rbee_worker.ops.plan import PlanOps
from rbee_worker.state.specs import group_bytes_per_block

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder
    from rbee_worker.ops import Ops
    from rbee_worker.state.pool import StatePool

DEVICES = ("nvidia0", "nvidia1", "nvidiactl", "dxg")  # in /dev, where a driver is loaded


@dataclass(frozen=True)
class _Plan:
    """What `prepare` decides: whether floats and integers of packed matrices are kept too."""

    resident: bool = True
    integers: bool = True
    notes: tuple[str, ...] = ()


class CudaBackend(Backend):
    """Our own kernels on one NVIDIA GPU; see the package's `device_ops.py`."""

    name = "cuda"
    title = "Triton kernels on an NVIDIA GPU"
    buckets = True
    overlaps = True
    threaded = False

    def refuses(self, settings: Settings) -> Refusal | None:
        pretended = _interpreted() and settings.backend == self.name  # never for `auto`
        if not pretended and not any(Path("/dev", name).exists() for name in DEVICES):
            return Refusal(
                "no NVIDIA GPU is visible here (no /dev/nvidia*).",
                "use --backend cpu, or give this process or container the GPU and its driver.",
                absent=True,
            )
        if (only := cpu_only(settings)) is not None:
            return only
        if (lacking := not_on_gpu(settings)) is not None:
            return lacking
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

    def activations(self, settings: Settings, dtype: str, formats: Collection[str]) -> str:
        return "i8" if is_packed(formats) and _planes(settings) else dtype

    def plan_ops(self, dtype: str, settings: Settings | None = None) -> PlanOps:
        """Without what is kept beside packed matrices only where there is room."""
        return self._plan_ops(dtype, settings or Settings(), resident=False, integers=False)

    def _plan_ops(
        self, dtype: str, settings: Settings, *, resident: bool, integers: bool
    ) -> PlanOps:
        from rbee_worker.ops.cuda.plan import CudaPlanOps

        f8 = settings.quantize == "fp8"
        return CudaPlanOps(
            dtype, planes=_planes(settings), resident=resident, integers=integers, f8=f8
        )

    def fast(self) -> frozenset[str]:
        from rbee_worker.ops.cuda.device_ops import NATIVE

        return NATIVE

    def free_bytes(self, settings: Settings) -> int:
        if _interpreted():
            return available_memory()
        import torch

        from rbee_worker.ops.cuda.card import use_card

        use_card(settings)
        free, total = torch.cuda.mem_get_info()
        kept = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # free for this process
        own = total * settings.gpu_memory // 100 - torch.cuda.memory_allocated()
        return max(min(free + kept, own), 0)

    def prepare(
        self, outline: ModelOutline, settings: Settings, kv_dtype: str, progress: Progress
    ) -> Prepared:
        """Triton compiles a kernel when it is first launched, and keeps it. What is decided here is
        whether there is memory for integers and floats of packed matrices."""
        from rbee_worker.ops.cuda.kernels.packed.planes import WORDS

        dtype, notes = self.compute_dtype(settings, "", {}), []
        uses = self._planned(outline, settings, dtype).uses
        packed = any(format in WORDS for format, _ in uses)
        if settings.deterministic:
            notes.append("a sequence's logits are the same bits in any step")
        if settings.quantize == "fp8":
            if packed and all(format in WORDS for format, held in uses if held != "f32"):
                raise UsageError(
                    "--quantize fp8: all matrices of this model are packed already.",
                    fix="leave the option out.",
                )
            notes.append("matrices of floats are kept in 8 bits, stacks of experts are not")
        if not packed:
            return _Plan(notes=tuple(notes))
        if not _planes(settings):
            return _Plan(notes=(*notes, "packed matrices are kept as floats"))
        held = [
            self._planned(outline, settings, dtype, resident=one.resident, integers=one.integers)
            for one in CHOICES
        ]
        kept = chosen([ops.held_bytes for ops in held], self.free_bytes(settings))
        return _Plan(kept.resident, kept.integers, (*notes, kept.note))

    def _planned(
        self,
        outline: ModelOutline,
        settings: Settings,
        dtype: str,
        *,
        resident: bool = True,
        integers: bool = True,
    ) -> PlanOps:
        ops = self._plan_ops(dtype, settings, resident=resident, integers=integers)
        outline.build(cast("Ops", ops))
        return ops

    def warm(
        self,
        outlines: Sequence[tuple[ModelOutline, str]],
        settings: Settings,
        targets: Sequence[str],
        progress: Callable[[str, int, int, str], None],
    ) -> Iterator[Warmed]:
        raise UsageError(
            "--backend cuda compiles kernels for the GPU that is here, by running a model.",
            fix="leave --isa out.",
        )

    def kernels(self) -> tuple[Path, int]:
        from triton import knobs

        folder = Path(knobs.cache.dir)
        return folder, sum(1 for _ in folder.glob("*/*.cubin"))

    def tune(
        self,
        outline: ModelOutline,
        settings: Settings,
        dtype: str,
        told: Callable[[int, int, str], None],
    ) -> str:
        """Of products of a few rows with matrices of 16-bit floats."""
        if _interpreted() or settings.deterministic or dtype == "f32":
            return ""
        from rbee_worker.ops.cuda.card import card_shapes, use_card
        from rbee_worker.ops.cuda.traffic import TrafficOps, float_products
        from rbee_worker.ops.cuda.tuning import tune

        ops = TrafficOps(dtype, planes=_planes(settings), f8=settings.quantize == "fp8")
        use_card(settings)
        return tune(float_products(ops, outline.build(ops)), card_shapes(settings), told)

    def tuned(self, settings: Settings) -> list[str]:
        import torch

        from rbee_worker.ops.cuda.card import card_shapes

        found = not _interpreted() and torch.cuda.is_available()
        return card_shapes(settings).lines() if found else []

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

        from rbee_worker.ops.cuda.card import card_shapes, use_card
        from rbee_worker.ops.cuda.ops import CudaOps

        torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
        forms: dict[str, bool] = {
            "planes": _planes(settings),
            "resident": not isinstance(prepared, _Plan) or prepared.resident,
            "integers": not isinstance(prepared, _Plan) or prepared.integers,
            "f8": settings.quantize == "fp8",
            "fixed": settings.deterministic,
        }
        if _interpreted():
            return CudaOps("cpu", dtype, sites=sites_for(settings), shapes=None, **forms)
        use_card(settings)
        pdl = torch.cuda.get_device_capability()[0] >= 9
        return CudaOps(
            f"cuda:{settings.device}",
            dtype,
            pdl=pdl,
            sites=sites_for(settings),
            shapes=card_shapes(settings),
            **forms,
        )

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
            features=pool.features,
        )

    def executable(
        self, model: Decoder, settings: Settings, *, kv_dtype: str, longest: int
    ) -> Executable:
        from rbee_worker.ops.cuda.model import CudaModel

        return CudaModel(model, graphs=not _interpreted())

    def pieces(self, model: Decoder, *, tokens: int, block_size: int, kv_dtype: str) -> Any:
        from rbee_worker.ops.cuda.stepwise import CudaStepwise

        return CudaStepwise(model)

    def gauge(
        self, outline: ModelOutline, settings: Settings, dtype: str, kv_dtype: str
    ) -> DeviceGauge | None:
        if _interpreted():
            return None
        from rbee_worker.ops.cuda.gauge import CudaGauge

        decoder = outline.build(cast("Ops", self.plan_ops(dtype, settings)))
        cached = sum(group_bytes_per_block(group, 1, kv_dtype) for group in decoder.groups)
        weights = self.bytes_per_token(outline, settings, dtype)
        return CudaGauge(weights, cached, 1e9 * self.read_gb_s(settings))

    def bytes_per_token(self, outline: ModelOutline, settings: Settings, dtype: str) -> int:
        from rbee_worker.ops.cuda.traffic import TrafficOps, bytes_read

        ops = TrafficOps(dtype, planes=_planes(settings), f8=settings.quantize == "fp8")
        return bytes_read(ops, outline.build(ops))

    def read_gb_s(self, settings: Settings) -> float:
        from rbee_worker.ops.cuda.bandwidth import read_gb_s
        from rbee_worker.ops.cuda.card import use_card

        use_card(settings)
        return read_gb_s()


def _planes(settings: Settings) -> bool:
    """Do products of a few rows read packed weights as they are, with activations in 8 bits?"""
    return not (settings.exact_activations or settings.deterministic)


def _interpreted() -> bool:
    """Do kernels run as Python on the CPU (Triton's interpreter), as tests without a GPU do?"""
    return os.environ.get("TRITON_INTERPRET") == "1"


BACKEND = CudaBackend()
