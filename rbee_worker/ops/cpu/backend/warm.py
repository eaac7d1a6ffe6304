"""Compiles the kernels that models need, before anything else of a model is loaded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import rbee_worker
from rbee_worker.config import DRAFTED_ROWS, Settings
from rbee_worker.errors import UsageError
from rbee_worker.machine import allowed_cores
from rbee_worker.ops.adapted import sites_for
from rbee_worker.ops.backend import ModelOutline, Progress, Warmed
from rbee_worker.ops.cpu.runtime import kernel_cache
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.shared import isa

EVERY_ISA = "all"
HEAD_ROWS = 64  # logits computed at once


def recording_shape(settings: Settings, kv_dtype: str, longest: int) -> Shape:
    """The shape that a model is recorded for. longest: the most tokens of a sequence."""
    draws = settings.max_seqs
    if settings.drafts != "off":
        draws = max(draws, DRAFTED_ROWS)
    rows = min(draws, HEAD_ROWS)
    return Shape(settings.token_budget, rows, longest, settings.block_size, kv_dtype)


def needed(outline: ModelOutline, shape: Shape, settings: Settings) -> list[str]:
    """The kernels that this model calls under these settings. Reads no weights."""
    from rbee_worker.ops.cpu.backend.outline import OutlineOps

    ops = OutlineOps(
        exact=settings.exact_activations,
        bf16=settings.bf16_activations,
        sites=sites_for(settings),
    )
    ops.mtp = settings.mtp
    return ops.needed(outline.build(ops), shape)


@dataclass
class Kernels:
    """What `compile_for` made: the names of all, and the kernels that could not be kept. said: what
    else cannot be kept, of folders that have the kernels."""

    names: Sequence[str]
    unkept: kernel_cache.Unkept
    said: str = ""

    @property
    def notes(self) -> tuple[str, ...]:
        """See `Prepared.notes`."""
        return self.unkept.notes or ((self.said,) if self.said else ())


def compile_for(
    outline: ModelOutline, shape: Shape, settings: Settings, progress: Progress | None = None
) -> Kernels:
    """Compile every kernel of the model, using all cores.

    The list of kernels is kept next to them, because finding it takes longer than most of a start.
    A kernel missing from a stale list is compiled on first use. Raises ModelError if kernels
    cannot be compiled.
    """
    target, cache_dir = isa.choose(os.environ.get("RBEE_CPU_ISA", "")), settings.cache_dir
    # which kernels: the folder may be shared with processors that have other instructions
    how = settings.exact_activations, settings.bf16_activations, isa.bf16_ending()
    more = sites_for(settings) is not None, settings.mtp
    asker = repr((rbee_worker.__version__, *how, *more, shape, outline.key))
    unkept = kernel_cache.Unkept()
    noted = kernel_cache.recall(asker, target, cache_dir=cache_dir)
    if noted and kernel_cache.are_kept(noted, target, cache_dir=cache_dir):
        return Kernels(noted, unkept)
    names = needed(outline, shape, settings)
    kernel_cache.compile_missing(
        names,
        target,
        cache_dir=cache_dir,
        progress=progress,
        jobs=allowed_cores(),
        unkept=unkept,
    )
    kernel_cache.remember(asker, names, target, cache_dir=cache_dir)
    return Kernels(names, unkept)


def chosen_targets(asked: Sequence[str]) -> list[isa.Isa]:
    """The instruction sets named, or this machine's if none is.

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
    """Compile these kernels for `target` and store them. Raises ModelError."""
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
