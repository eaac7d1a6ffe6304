"""Compiling what a model needs on the cpu backend, before anything else is loaded."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import rbee_worker
from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.machine import allowed_cores
from rbee_worker.models import outline_model
from rbee_worker.ops.cpu.shared import isa, kernel_cache
from rbee_worker.ops.cpu.shared.kernel_cache import Progress
from rbee_worker.ops.select import backend_name, recording_shape


@dataclass(frozen=True)
class Done:
    """names: all kernels that were asked for; compiled: those that were not in `folder`."""

    folder: Path
    names: Sequence[str]
    compiled: Sequence[str]


def needed(ckpt: Checkpoint, settings: Settings, kv_dtype: str) -> list[str]:
    """Kernels that this model calls under these settings. Imports torch, reads no weights."""
    from rbee_worker.ops.cpu.backend.outline import OutlineOps

    ops = OutlineOps(exact=settings.exact_activations)
    model = outline_model(ckpt, ops)
    return ops.needed(model, recording_shape(settings, kv_dtype, model.context))


def compile_for(
    ckpt: Checkpoint, settings: Settings, kv_dtype: str, progress: Progress | None = None
) -> None:
    """Have every kernel of the model compiled, all cores at it, where the backend has kernels.

    Which they are is noted beside them: to find out takes longer than anything else in a start but
    torch. One that is missing from an old note is compiled when it is called for. Raises ModelError
    where they cannot be compiled or kept.
    """
    if backend_name(settings) != "cpu":
        return
    target, cache_dir = isa.choose(os.environ.get("RBEE_CPU_ISA", "")), settings.cache_dir
    asker = _asker(ckpt, settings, kv_dtype)
    noted = kernel_cache.recall(asker, target, cache_dir=cache_dir)
    if noted and kernel_cache.are_kept(noted, target, cache_dir=cache_dir):
        return
    names = needed(ckpt, settings, kv_dtype)
    compile_names(names, target, cache_dir, progress)
    kernel_cache.remember(asker, names, target, cache_dir=cache_dir)


def _asker(ckpt: Checkpoint, settings: Settings, kv_dtype: str) -> str:
    """All that decides which kernels are called: the model's shape and how it is recorded."""
    infos = ((n, ckpt.source.info(n)) for n in sorted(ckpt.source.names()))
    tensors = [(name, info.format, info.shape) for name, info in infos]
    recorded = (settings.token_budget, settings.max_seqs, settings.block_size, kv_dtype)
    made = (rbee_worker.__version__, settings.exact_activations, ckpt.arch, ckpt.config)
    return repr((made, recorded, tensors))


def compile_names(
    names: Sequence[str], target: isa.Isa, cache_dir: str = "", progress: Progress | None = None
) -> Done:
    """Have these kernels compiled and kept. Raises ModelError."""
    compiled = kernel_cache.compile_missing(
        names, target, cache_dir=cache_dir, progress=progress, jobs=allowed_cores()
    )
    return Done(kernel_cache.folder(target, cache_dir), names, compiled)
