"""Compiling the kernels that models need, before anything else of them is loaded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence

import rbee_worker
from rbee_worker.config import DRAFTED_ROWS, Settings
from rbee_worker.errors import UsageError
from rbee_worker.machine import allowed_cores
from rbee_worker.ops.backend import ModelOutline, Progress, Warmed
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.shared import isa, kernel_cache

EVERY_ISA = "all"
HEAD_ROWS = 64  # logits computed at once


def recording_shape(settings: Settings, kv_dtype: str, longest: int) -> Shape:
    """What a model is recorded for. longest: tokens of a sequence at most."""
    draws = settings.max_seqs
    if settings.speculate != "off":
        draws = max(draws, DRAFTED_ROWS)
    rows = min(draws, HEAD_ROWS)
    return Shape(settings.token_budget, rows, longest, settings.block_size, kv_dtype)


def needed(outline: ModelOutline, shape: Shape, settings: Settings) -> list[str]:
    """Kernels that this model calls under these settings. Reads no weights."""
    from rbee_worker.ops.cpu.backend.outline import OutlineOps

    ops = OutlineOps(exact=settings.exact_activations)
    return ops.needed(outline.build(ops), shape)


def compile_for(
    outline: ModelOutline, shape: Shape, settings: Settings, progress: Progress | None = None
) -> None:
    """Have every kernel of the model compiled, with all cores.

    The list of kernels is kept next to them, because finding it takes longer than most of a start.
    A kernel that a stale list lacks is compiled on first use. Raises ModelError where kernels
    cannot be compiled or kept.
    """
    target, cache_dir = isa.choose(os.environ.get("RBEE_CPU_ISA", "")), settings.cache_dir
    asker = repr((rbee_worker.__version__, settings.exact_activations, shape, outline.key))
    noted = kernel_cache.recall(asker, target, cache_dir=cache_dir)
    if noted and kernel_cache.are_kept(noted, target, cache_dir=cache_dir):
        return
    names = needed(outline, shape, settings)
    kernel_cache.compile_missing(
        names, target, cache_dir=cache_dir, progress=progress, jobs=allowed_cores()
    )
    kernel_cache.remember(asker, names, target, cache_dir=cache_dir)


def chosen_targets(asked: Sequence[str]) -> list[isa.Isa]:
    """The instruction sets asked for, this machine's where none is.

    Raises UsageError for one that cannot be compiled for.
    """
    if not asked:
        return [isa.choose(os.environ.get("RBEE_CPU_ISA", ""))]
    known = isa.targets()
    for name in asked:
        if name not in (*known, EVERY_ISA):
            raise UsageError(
                f"--isa {name} is not known here.",
                fix=f"use {', '.join(known)}, or {EVERY_ISA}.",
            )
    wanted = known if EVERY_ISA in asked else dict.fromkeys(asked)
    return [isa.target(name) for name in wanted]


def compile_target(
    names: Sequence[str],
    target: isa.Isa,
    settings: Settings,
    progress: Callable[[str, int, int, str], None],
) -> Warmed:
    """Have these kernels compiled for `target` and kept. Raises ModelError."""
    began = time.perf_counter()
    made = kernel_cache.compile_missing(
        names,
        target,
        cache_dir=settings.cache_dir,
        progress=lambda done, of, last: progress(target.name, done, of, last),
        jobs=allowed_cores(),
    )
    seconds = time.perf_counter() - began
    folder = kernel_cache.folder(target, settings.cache_dir)
    return Warmed(target.name, len(names), len(made), seconds, folder)
