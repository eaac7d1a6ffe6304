"""`CpuBackend`: compiled kernels and a recorded program; see the package's docstring."""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rbee_worker.checkpoint.formats import is_packed
from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.extras import missing
from rbee_worker.machine import allowed_cores, available_memory
from rbee_worker.ops.adapted import sites_for
from rbee_worker.ops.backend import Backend, Kept, ModelOutline, Prepared, Progress, Refusal, Warmed
from rbee_worker.ops.batch import Array
from rbee_worker.ops.cpu.shared.held import planned
from rbee_worker.ops.cpu.shared.isa import unsupported
from rbee_worker.ops.cpu.shared.paged import KEYS, SPAN
from rbee_worker.ops.cpu.shared.vocabulary import NATIVE
from rbee_worker.ops.executable import Executable, StateMemory
from rbee_worker.ops.gpu_options import gpu_only
from rbee_worker.ops.plan import PlanOps

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder
    from rbee_worker.ops import Ops
    from rbee_worker.state.pool import StatePool

ARENA_SLACK = 1 << 26  # bytes for aligning parts of weights to cache lines
_NEEDED = (  # modules that every model needs and that are slow to import
    "rbee_worker.ops.cpu.backend.model",
    "rbee_worker.ops.cpu.backend.warm",
    "rbee_worker.ops.cpu.runtime.state",
)
_LEAST_READ = 4  # a bandwidth measurement takes at most 1/4 of the free memory


class CpuBackend(Backend):
    """x86-64 and Arm under Linux; activations in float32, weights in the file's own formats."""

    name = "cpu"
    title = "compiled CPU kernels"
    warms = True

    def refuses(self, settings: Settings) -> Refusal | None:
        only = gpu_only(settings)
        if only is not None:
            return only
        if (why := unsupported()) is not None:
            return Refusal(why, "use --backend reference (pip install 'rbee-worker[torch]').")
        if (absent := missing("llvmlite")) is not None:
            return Refusal(*absent)
        if settings.exact_activations and settings.bf16_activations:
            return Refusal(
                "--bf16-activations rounds activations, --exact-activations does not.",
                "give one of them.",
            )
        if settings.dtype not in ("auto", "f32"):
            return Refusal(
                f"the cpu backend computes in f32, not in {settings.dtype}.",
                "drop --dtype, or use --backend reference.",
            )
        if settings.block_size % KEYS or SPAN % settings.block_size:
            return Refusal(
                f"--block-size {settings.block_size} is not a multiple of {KEYS} that divides "
                f"{SPAN}.",
                f"use --block-size {KEYS}, or --backend reference.",
            )
        return None

    def preload(self) -> None:
        for module in _NEEDED:
            importlib.import_module(module)

    def compute_dtype(self, settings: Settings, kind: str, formats: dict[str, int]) -> str:
        return "f32"

    def kv_dtype(self, settings: Settings, dtype: str, packed: bool) -> str:
        """auto: f16 for packed weights, else the compute dtype."""
        if settings.kv_dtype == "f8":
            raise UsageError("--kv-dtype f8 is not available.", fix="use --kv-dtype f16.")
        if settings.kv_dtype != "auto":
            return settings.kv_dtype
        return "f16" if packed else dtype

    def activations(self, settings: Settings, dtype: str, formats: Collection[str]) -> str:
        if is_packed(formats) and not settings.exact_activations:
            return "i8"
        return "bf16" if settings.bf16_activations and "BF16" in formats else dtype

    def plan_ops(self, dtype: str, settings: Settings | None = None) -> PlanOps:
        return PlanOps(dtype, held=planned)

    def fast(self) -> frozenset[str]:
        return NATIVE

    def free_bytes(self, settings: Settings) -> int:
        return available_memory()

    def prepare(
        self, outline: ModelOutline, settings: Settings, kv_dtype: str, progress: Progress
    ) -> Prepared:
        from rbee_worker.ops.cpu.backend.warm import compile_for, recording_shape
        from rbee_worker.ops.cpu.runtime.readings import asked

        asked()  # a bad wish ends the start before it compiles
        shape = recording_shape(settings, kv_dtype, outline.context)
        return compile_for(outline, shape, settings, progress)

    def warm(
        self,
        outlines: Sequence[tuple[ModelOutline, str]],
        settings: Settings,
        targets: Sequence[str],
        progress: Callable[[str, int, int, str], None],
    ) -> Iterator[Warmed]:
        from rbee_worker.ops.cpu.backend.warm import (
            chosen_targets,
            compile_target,
            needed,
            recording_shape,
        )

        wanted = chosen_targets(targets)
        names: set[str] = set()
        for outline, kv in outlines:
            names |= set(needed(outline, recording_shape(settings, kv, outline.context), settings))
        return (compile_target(sorted(names), isa, settings, progress) for isa in wanted)

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
        from rbee_worker.ops.cpu.backend.ops import CpuOps
        from rbee_worker.ops.cpu.backend.warm import Kernels
        from rbee_worker.ops.cpu.runtime.arena import Arena
        from rbee_worker.ops.cpu.runtime.kept_arena import kept_arena
        from rbee_worker.ops.cpu.runtime.kernel_cache import Unkept
        from rbee_worker.ops.cpu.runtime.native import Library
        from rbee_worker.ops.cpu.runtime.readings import chosen
        from rbee_worker.ops.cpu.runtime.team import Team
        from rbee_worker.ops.cpu.shared import isa

        kernels = prepared if isinstance(prepared, Kernels) else Kernels((), Unkept())
        target = isa.choose(os.environ.get("RBEE_CPU_ISA", ""))
        library = Library(
            target,
            cache_dir=settings.cache_dir,
            progress=progress,
            unkept=kernels.unkept,
        )
        choice = chosen(library, kernels.names, cache_dir=settings.cache_dir)
        kernels.said = choice.note
        capacity = weight_bytes + ARENA_SLACK
        if kept is None:
            arena = Arena(capacity)
        else:  # what is held depends on the model and, if at all, on these
            how = (
                *(target.name, settings.exact_activations, settings.bf16_activations),
                settings.mtp,
            )
            key = hashlib.sha256(kept.key + repr(how).encode()).digest()
            arena = kept_arena(kept.memory, key, capacity)
        # threads of two teams would spin beside each other
        shared = beside.team if isinstance(beside, CpuOps) else None
        ops = CpuOps(
            library,
            shared or Team(library, settings.threads or allowed_cores()),
            exact=settings.exact_activations,
            bf16=settings.bf16_activations,
            arena=arena,
            sites=sites_for(settings),
            readings=choice.readings,
        )
        ops.mtp = settings.mtp
        return ops

    def state(self, ops: Ops, pool: StatePool, dtype: str) -> StateMemory:
        from rbee_worker.ops.cpu.runtime.state import CpuState

        return CpuState(
            pool.groups,
            pool.n_blocks,
            pool.n_slots,
            block_size=pool.block_size,
            dtype=dtype,
            features=pool.features,
        )

    def executable(
        self, model: Decoder, settings: Settings, *, kv_dtype: str, longest: int
    ) -> Executable:
        from rbee_worker.ops.cpu.backend.model import CpuModel
        from rbee_worker.ops.cpu.backend.ops import CpuOps
        from rbee_worker.ops.cpu.backend.warm import recording_shape

        assert isinstance(model.ops, CpuOps)
        return CpuModel(model, model.ops, recording_shape(settings, kv_dtype, longest))

    def columns(self, logits: Array, vocab: int) -> Array:
        own = logits.shape[1]
        if own >= vocab:
            return logits if own == vocab else logits[:, :vocab]
        return np.pad(logits, ((0, 0), (0, vocab - own)), constant_values=-np.inf)

    def pieces(self, model: Decoder, *, tokens: int, block_size: int, kv_dtype: str) -> Any:
        from rbee_worker.ops.cpu.backend.model import CpuModel
        from rbee_worker.ops.cpu.backend.ops import CpuOps
        from rbee_worker.ops.cpu.backend.stepwise import Stepwise
        from rbee_worker.ops.cpu.backend.warm import HEAD_ROWS
        from rbee_worker.ops.cpu.runtime.header import Shape

        assert isinstance(model.ops, CpuOps)
        shape = Shape(tokens, min(tokens, HEAD_ROWS), tokens, block_size, kv_dtype)
        return Stepwise(CpuModel(model, model.ops, shape))

    def bytes_per_token(self, outline: ModelOutline, settings: Settings, dtype: str) -> int:
        from rbee_worker.ops.cpu.backend.bytes_read import bytes_read

        return bytes_read(outline, settings)

    def readings(self, settings: Settings) -> dict[str, dict[str, Any]]:
        from rbee_worker.ops.cpu.runtime.readings import Kept, shown
        from rbee_worker.ops.cpu.shared import isa

        target = isa.choose(os.environ.get("RBEE_CPU_ISA", ""))
        return shown(Kept(target, cache_dir=settings.cache_dir))

    def instructions(self, settings: Settings) -> str:
        from rbee_worker.ops.cpu.shared import isa

        return isa.choose(os.environ.get("RBEE_CPU_ISA", "")).name

    def read_gb_s(self, settings: Settings) -> float:
        from rbee_worker.ops.cpu.runtime.bandwidth import read_gb_s

        threads = settings.threads or allowed_cores()
        most = available_memory() // _LEAST_READ
        return read_gb_s(threads, most=most, cache_dir=settings.cache_dir)


BACKEND = CpuBackend()
