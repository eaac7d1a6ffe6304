"""`rbee-worker warmup`: compiles kernels ahead of the first start, for example in an image."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import click
import msgspec

from rbee_worker.cli.terminal import Status, dim, download_progress
from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.observe import narration

if TYPE_CHECKING:
    from rbee_worker.checkpoint import Checkpoint
    from rbee_worker.ops.backend import ModelOutline, Warmed


@click.argument(
    "refs", nargs=-1, metavar="[REF]...", help="models (default: what common models need)"
)
@click.option(
    "--isa",
    metavar="NAME",
    multiple=True,
    help="instruction set, repeatable, or all (default: this machine's)",
)
def warmup(settings: Settings, refs: Sequence[str], isa: Sequence[str]) -> None:
    """Compile the kernels of models and keep them for later starts.

    On a GPU each model runs once for that.
    """
    from rbee_worker.ops.backends import AUTO, choose_backend, warming_backend  # imports numpy

    if settings.backend == AUTO:  # otherwise there may be no kernels
        settings = msgspec.structs.replace(settings, backend=warming_backend())
    backend = choose_backend(settings)
    status = Status()

    def progress(target: str, done: int, total: int, last: str) -> None:
        status.show(f"{target}: {narration.compiling(done, total, last).human}")

    try:
        if not (backend.warms or isa):
            backend.kernels()  # raises where there are none
            _run(settings, refs, status, progress)
            return
        status.show("Finding out which kernels are needed.")
        models = _checkpoints(settings, refs, status)
        outlines = [_outlined(ckpt, settings) for ckpt in models]
        for warmed in backend.warm(outlines, settings, isa, progress):
            status.clear()
            _say(warmed, len(outlines))
    finally:
        status.clear()


def _run(
    settings: Settings,
    refs: Sequence[str],
    status: Status,
    progress: Callable[[str, int, int, str], None],
) -> None:
    """Run each model once, on a backend that compiles kernels when they are first used."""
    from rbee_worker.loading.run_once import run_once

    if not refs:
        raise UsageError(
            f"--backend {settings.backend}: kernels are compiled by running a model.",
            fix="name it: rbee-worker warmup --backend cuda REF.",
        )
    for ckpt in _checkpoints(settings, refs, status):
        settings = msgspec.structs.replace(settings, model=ckpt.ref)
        warmed = run_once(settings, partial(progress, ckpt.ref))
        status.clear()
        _say(warmed, 1)


def _outlined(ckpt: Checkpoint, settings: Settings) -> tuple[ModelOutline, str]:
    """A model's outline, and the dtype that its cache would have."""
    from rbee_worker.loading.preflight import outline_of, preflight

    plan = preflight(ckpt, msgspec.structs.replace(settings, model=ckpt.ref))
    return outline_of(ckpt, plan.model.context), plan.kv_dtype


def _checkpoints(settings: Settings, refs: Sequence[str], status: Status) -> Iterable[Checkpoint]:
    if not refs:
        from rbee_worker.loading.common_models import common_models

        return common_models()
    from rbee_worker.checkpoint import open_checkpoint

    progress = download_progress(status.show)
    return (open_checkpoint(r, cache_dir=settings.cache_dir, progress=progress) for r in refs)


def _say(warmed: Warmed, models: int) -> None:
    made = f"{warmed.made} compiled in {warmed.seconds:.1f} s" if warmed.made else "all there"
    of = f"of {models} model{'s' if models != 1 else ''}"
    where = dim(str(warmed.folder), sys.stdout)
    sys.stdout.write(f"{warmed.target}: {warmed.kernels} kernels {of}, {made}  {where}\n")
    if warmed.note:
        sys.stdout.write(f"note: {warmed.note}\n")
    sys.stdout.flush()
