"""Which backend, device and dtype a worker runs with. Torch-free until the backend is made."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.ops import Ops
from rbee_worker.ops.backend import Executable, StateMemory
from rbee_worker.ops.cpu.shared.paged import KEYS, SPAN
from rbee_worker.state.specs import StateGroup

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder
    from rbee_worker.ops.cpu.runtime.ahead import HeldAhead
    from rbee_worker.ops.cpu.runtime.header import Shape

ARENA_SLACK = 1 << 26  # bytes that pieces may need to begin on cache lines
HEAD_ROWS = 64  # logits computed at once


def backend_name(settings: Settings) -> str:
    """The backend that `settings` get: "cpu" (compiled kernels) or "reference" (torch).

    auto is cpu where it can be had. Raises UsageError where cpu is asked for and cannot be had.
    """
    check_backend(settings)
    why = None if settings.backend == "reference" else _no_cpu(settings)
    if why is not None and settings.backend == "cpu":
        raise UsageError(f"--backend cpu: {why[0]}", fix=why[1])
    return "cpu" if why is None and settings.backend != "reference" else "reference"


def backend_notes(settings: Settings) -> tuple[str, ...]:
    """Why `auto` is not the fast backend here, in a line for people; empty where it is."""
    why = _no_cpu(settings) if settings.backend == "auto" else None
    return () if why is None else (f"backend reference, not cpu: {why[0]}",)


def _no_cpu(settings: Settings) -> tuple[str, str] | None:
    """Why the cpu backend cannot be had, and what to do."""
    if importlib.util.find_spec("llvmlite") is None:
        return "llvmlite is not installed.", "pip install 'rbee-worker[cpu]'"
    if settings.dtype not in ("auto", "f32"):
        return (
            f"it computes in f32, not in {settings.dtype}.",
            "drop --dtype, or use --backend reference.",
        )
    if settings.block_size % KEYS or SPAN % settings.block_size:
        return (
            f"--block-size {settings.block_size} is not a multiple of {KEYS} that divides {SPAN}.",
            f"use --block-size {KEYS}, or --backend reference.",
        )
    return None


def compute_dtype(settings: Settings, kind: str, formats: dict[str, int]) -> str:
    """The dtype that activations are computed in: what was asked for, else the file's own.

    kind: "safetensors" or "gguf"; formats: bytes by format of the checkpoint's tensors.
    auto: the cpu backend and GGUF files compute in f32, else a safetensors file computes in the
    format most of its bytes have.
    """
    if settings.dtype != "auto":
        return settings.dtype
    if kind == "gguf" or not formats or backend_name(settings) == "cpu":
        return "f32"
    most = max(formats, key=lambda name: formats[name])
    return {"BF16": "bf16", "F16": "f16"}.get(most, "f32")


def kv_dtype(settings: Settings, dtype: str, packed: bool) -> str:
    """The dtype keys and values are kept in. auto: f16 for packed weights, else the compute dtype.

    Raises UsageError for what the backend cannot keep.
    """
    if settings.kv_dtype == "i8" and backend_name(settings) != "cpu":
        raise UsageError(
            "--kv-dtype i8: the reference backend has no 8-bit cache.",
            fix="add --backend cpu, or use --kv-dtype f16.",
        )
    if settings.kv_dtype == "f8":
        raise UsageError("--kv-dtype f8 is not available.", fix="use --kv-dtype f16.")
    if settings.kv_dtype != "auto":
        return settings.kv_dtype
    return "f16" if packed else dtype


def check_backend(settings: Settings) -> None:
    """Raises UsageError for a backend, device or feature that is not built yet."""
    refused = {
        "--backend": (settings.backend, ("auto", "reference", "cpu")),
        "--attention": (settings.attention, ("auto", "reference")),
        "--tensor-parallel": (settings.tensor_parallel, (1,)),
        "--device": (settings.device, (0,)),
    }
    for option, (value, allowed) in refused.items():
        if value not in allowed:
            raise UsageError(
                f"{option} {value} is not available in this version.",
                fix=f"use one of: {', '.join(map(str, allowed))}.",
            )


def make_ops(
    settings: Settings,
    dtype: str,
    *,
    threads: int = 1,
    weight_bytes: int = 0,
    progress: Callable[[int, int, str], None] | None = None,
    held: HeldAhead | None = None,
) -> Ops:
    """The backend that `settings` ask for, computing in `dtype`. Imports torch.

    threads: of the cpu backend's own. weight_bytes: what it will hold, as planned.
    progress: kernels compiled, of, last one's name. held: what the cpu backend goes on from.
    """
    if backend_name(settings) == "cpu":
        from rbee_worker.ops.cpu.backend.ops import CpuOps
        from rbee_worker.ops.cpu.runtime.arena import Arena
        from rbee_worker.ops.cpu.runtime.native import Library
        from rbee_worker.ops.cpu.runtime.team import Team
        from rbee_worker.ops.cpu.shared import isa

        if held is not None:
            return CpuOps(
                held.library,
                held.team,
                exact=settings.exact_activations,
                arena=held.arena,
                held=held,
            )
        chosen = isa.choose(os.environ.get("RBEE_CPU_ISA", ""))
        library = Library(chosen, cache_dir=settings.cache_dir, progress=progress)
        return CpuOps(
            library,
            Team(library, threads),
            exact=settings.exact_activations,
            arena=Arena(weight_bytes + ARENA_SLACK),
        )
    from rbee_worker.ops.reference.ops import ReferenceOps

    return ReferenceOps("cpu", dtype)


def make_state(
    ops: Ops,
    groups: Sequence[StateGroup],
    n_blocks: Sequence[int],
    n_slots: int,
    *,
    block_size: int,
    dtype: str,
) -> StateMemory:
    """Zeroed state memory of the backend of `ops`; see `Backend.state`."""
    if ops.name == "cpu":
        from rbee_worker.ops.cpu.runtime.state import CpuState

        return CpuState(groups, n_blocks, n_slots, block_size=block_size, dtype=dtype)
    from rbee_worker.ops.reference.state import TorchState

    return TorchState(
        groups, n_blocks, n_slots, block_size=block_size, dtype=dtype, device=ops.device
    )


def executable(
    model: Decoder, ops: Ops, *, settings: Settings, kv_dtype: str, longest: int
) -> Executable:
    """What the engine runs: torch on the model itself, or its recording where `ops` only records.

    longest: tokens of a sequence at most.
    """
    if ops.name != "cpu":
        from rbee_worker.ops.reference.model import ReferenceModel

        return ReferenceModel(model)
    from rbee_worker.ops.cpu.backend.model import CpuModel
    from rbee_worker.ops.cpu.backend.ops import CpuOps

    assert isinstance(ops, CpuOps)
    return CpuModel(model, ops, recording_shape(settings, kv_dtype, longest))


def recording_shape(settings: Settings, kv_dtype: str, longest: int) -> Shape:
    """What the cpu backend records a model for. longest: tokens of a sequence at most."""
    from rbee_worker.ops.cpu.runtime.header import Shape

    rows = min(settings.max_seqs, HEAD_ROWS)
    return Shape(settings.token_budget, rows, longest, settings.block_size, kv_dtype)
