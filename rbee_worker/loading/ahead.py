"""What loading can do without torch, whose import is half of a start: this goes on beside it.

The checkpoint is opened and checked, and where the cpu backend will serve, its kernels, threads and
memory are made and its matrices repacked, by native threads that the import does not hold up.
`load_engine` goes on from here.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rbee_worker.checkpoint import Checkpoint
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Loading
from rbee_worker.loading.preflight import Preflight, preflight
from rbee_worker.machine import allowed_cores, available_memory
from rbee_worker.models.random import open_model
from rbee_worker.ops.select import ARENA_SLACK, backend_name

if TYPE_CHECKING:
    from rbee_worker.ops.cpu.runtime.ahead import HeldAhead
    from rbee_worker.ops.cpu.shared.kernel_cache import Progress

Report = Callable[[Loading], None]


@dataclass(frozen=True)
class Ahead:
    """An opened and checked model. held: the matrices that are repacked, None where none are.

    seconds: of each phase so far; the engine's go on in it.
    """

    settings: Settings
    ckpt: Checkpoint
    plan: Preflight
    held: HeldAhead | None
    seconds: dict[str, float] = field(default_factory=dict)


def load_ahead(settings: Settings, report: Report) -> Ahead:
    """Open `settings.model`; repack it where its kernels are there already.

    Raises ModelError's children and UsageError.
    """
    began = time.perf_counter()
    report(Loading(stage="opening"))
    ckpt = open_model(settings.model, cache_dir=settings.cache_dir)
    plan = preflight(ckpt, settings)
    plan.room(settings, available_memory())
    opened = time.perf_counter()
    held = repacked(ckpt, plan, settings, report)
    seconds = {"open": opened - began, "weights": time.perf_counter() - opened}
    return Ahead(settings, ckpt, plan, held, {k: round(v, 3) for k, v in seconds.items()})


def compiling(report: Report) -> Progress:
    """Tells the loader's listener about kernels compiled for this processor."""

    def told(done: int, total: int, name: str) -> None:
        report(Loading(stage="compiling", item=name, layers_loaded=done, layers_total=total))

    return told


def repacked(
    ckpt: Checkpoint, plan: Preflight, settings: Settings, report: Report
) -> HeldAhead | None:
    """The matrices of `plan`, repacked; None where another backend serves, or kernels are missing.

    Raises CheckpointError.
    """
    if backend_name(settings) != "cpu":
        return None
    # only now: its compiler may not be installed
    from rbee_worker.ops.cpu.runtime.ahead import HeldAhead
    from rbee_worker.ops.cpu.runtime.arena import Arena
    from rbee_worker.ops.cpu.runtime.matrix import repacker
    from rbee_worker.ops.cpu.runtime.native import Library
    from rbee_worker.ops.cpu.runtime.team import KERNELS, Team
    from rbee_worker.ops.cpu.shared import isa, kernel_cache

    chosen = isa.choose(os.environ.get("RBEE_CPU_ISA", ""))
    source = ckpt.source
    formats = {source.info(name).format for names in plan.held.order for name in names}
    needed = [*KERNELS, *map(repacker, formats)]
    if not kernel_cache.are_kept(needed, chosen, cache_dir=settings.cache_dir):
        return None  # all that are missing compile at once, which takes torch to find out
    library = Library(chosen, cache_dir=settings.cache_dir, progress=compiling(report))
    library.load(needed)
    team = Team(library, settings.threads or allowed_cores())
    held = HeldAhead(source, library, team, Arena(plan.weight_bytes + ARENA_SLACK))
    total = sum(source.info(name).nbytes for name in source.names())
    held.hold(
        plan.held.order,
        lambda done: report(Loading(stage="loading", bytes_loaded=done, bytes_total=total)),
    )
    return held
