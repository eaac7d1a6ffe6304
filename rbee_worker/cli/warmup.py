"""`rbee-worker warmup`: compile CPU kernels now, so that no first start has to; for images."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from rbee_worker.cli.terminal import Status, dim, download_progress
from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.observe import narration

if TYPE_CHECKING:
    from rbee_worker.checkpoint import Checkpoint
    from rbee_worker.ops.cpu.shared.isa import Isa

EVERY_ISA = "all"


def warmup(
    settings: Settings,
    refs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[REF]...", help="models; without: what common models need"),
    ] = None,
    isa: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="instruction set, repeatable, or all (default: this machine's)",
        ),
    ] = None,
) -> None:
    """Compile the CPU kernels of models, and keep them for later starts."""
    if settings.backend == "reference":
        raise UsageError(
            "--backend reference has no kernels to compile.", fix="use --backend cpu, or leave it."
        )
    settings = msgspec.structs.replace(settings, backend="cpu")
    targets = _targets(isa or [])
    status = Status()
    try:
        status.show("Looking at what is needed.")
        names, models = _names(settings, refs or [], status)
        for target in targets:
            _compile(names, models, target, settings, status)
    finally:
        status.clear()


def _targets(asked: list[str]) -> list[Isa]:
    """The instruction sets asked for. Raises UsageError for one that cannot be compiled for."""
    from rbee_worker.ops.cpu.shared import isa

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


def _names(settings: Settings, refs: list[str], status: Status) -> tuple[list[str], int]:
    """Kernels of all models, and of how many models they are."""
    from rbee_worker.loading.kernels import needed
    from rbee_worker.loading.preflight import preflight

    names: set[str] = set()
    models = 0
    for ckpt in _checkpoints(settings, refs, status):
        mine = msgspec.structs.replace(settings, model=ckpt.ref)
        names |= set(needed(ckpt, mine, preflight(ckpt, mine).kv_dtype))
        models += 1
    return sorted(names), models


def _checkpoints(settings: Settings, refs: list[str], status: Status) -> Iterable[Checkpoint]:
    if not refs:
        from rbee_worker.loading.common_models import common_models

        return common_models()
    from rbee_worker.checkpoint import open_checkpoint

    progress = download_progress(status.show)
    return (open_checkpoint(r, cache_dir=settings.cache_dir, progress=progress) for r in refs)


def _compile(
    names: list[str], models: int, target: Isa, settings: Settings, status: Status
) -> None:
    from rbee_worker.loading.kernels import compile_names

    def progress(done: int, total: int, last: str) -> None:
        status.show(f"{target.name}: {narration.compiling(done, total, last).human}")

    began = time.perf_counter()
    done = compile_names(names, target, settings.cache_dir, progress)
    seconds = time.perf_counter() - began
    status.clear()
    made = f"{len(done.compiled)} compiled in {seconds:.1f} s" if done.compiled else "all there"
    of = f"of {models} model{'s' if models != 1 else ''}"
    where = dim(str(done.folder), sys.stdout)
    sys.stdout.write(f"{target.name}: {len(names)} kernels {of}, {made}  {where}\n")
    sys.stdout.flush()
