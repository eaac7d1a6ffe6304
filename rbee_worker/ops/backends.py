"""The list of backends, and the choice among them. A new backend is a package and a row here.

No backend is imported before it is needed.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import NamedTuple, cast

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.machine import allowed_cores
from rbee_worker.ops.backend import Backend, Refusal


class _Row(NamedTuple):
    """A backend's name on the command line, and the module that has its `BACKEND`."""

    name: str
    module: str


AUTO = "auto"
ROWS = (  # `auto` chooses the first that does not refuse
    _Row("cuda", "rbee_worker.ops.cuda.backend"),
    _Row("cpu", "rbee_worker.ops.cpu.backend.cpu"),
    _Row("reference", "rbee_worker.ops.reference.backend"),
)


@cache
def backend(name: str) -> Backend:
    """The backend with that name. Raises UsageError, which lists the names."""
    for row in ROWS:
        if row.name == name:
            return cast(Backend, importlib.import_module(row.module).BACKEND)
    raise UsageError(
        f"--backend {name} is not available in this version.",
        fix=f"use one of: {', '.join((AUTO, *(row.name for row in ROWS)))}.",
    )


def preload() -> None:
    """Import what most models need of the backend that `auto` chooses here, if there is one."""
    for row in ROWS:
        if backend(row.name).refuses(Settings()) is None:
            backend(row.name).preload()
            return


def choose_backend(settings: Settings) -> Backend:
    """The backend for `settings`; auto: the first that can serve them.

    Raises UsageError if none can, or if the chosen one cannot.
    """
    check_settings(settings)
    if settings.backend == AUTO:
        chosen, refusals = _auto(settings)
    else:
        chosen = backend(settings.backend)
        refusal = chosen.refuses(settings)
        refusals = {} if refusal is None else {chosen.name: refusal}
        chosen = chosen if refusal is None else None
    if chosen is not None:
        return chosen
    expected = [refusal for refusal in refusals.values() if not refusal.absent]
    first = (expected or list(refusals.values()))[0]
    raise UsageError(first.why, fix=first.fix)


def _auto(settings: Settings) -> tuple[Backend | None, dict[str, Refusal]]:
    """The first backend that can serve `settings`, and why those before it cannot."""
    refusals: dict[str, Refusal] = {}
    for row in ROWS:
        refusal = backend(row.name).refuses(settings)
        if refusal is None:
            return backend(row.name), refusals
        refusals[row.name] = refusal
    return None, refusals


def backend_notes(settings: Settings) -> tuple[str, ...]:
    """What to know of the chosen backend, a line each: why `auto` did not choose one that is
    expected here, and that more threads were asked for than there are cores."""
    if settings.backend != AUTO:
        return _threads_note(settings, backend(settings.backend))
    chosen, refusals = _auto(settings)
    if chosen is None:
        return ()
    expected = {name: refusal for name, refusal in refusals.items() if not refusal.absent}
    told = [
        f"backend {chosen.name} ({chosen.title}), not {name}: {refusal.why} Fix: {refusal.fix}"
        for name, refusal in expected.items()
    ]
    return (*told[:1], *_threads_note(settings, chosen))


def _threads_note(settings: Settings, chosen: Backend) -> tuple[str, ...]:
    """Threads that share a core wait for each other at the end of every operation."""
    cores = allowed_cores()
    if not chosen.threaded or settings.threads <= cores:
        return ()
    what = "core" if cores == 1 else "cores"
    return (
        f"--threads {settings.threads} is more than the {cores} {what} that this process may use: "
        f"they wait for each other, and decoding is slow. Fix: --threads {cores}, or leave it out.",
    )


def warming_backend() -> str:
    """The name of the first backend whose kernels are compiled beforehand."""
    return next(row.name for row in ROWS if backend(row.name).warms)


def check_settings(settings: Settings) -> None:
    """Raise UsageError for a feature that no backend has yet."""
    refused = {"--tensor-parallel": (settings.tensor_parallel, (1,))}
    for option, (value, allowed) in refused.items():
        if value not in allowed:
            raise UsageError(
                f"{option} {value} is not available in this version.",
                fix=f"use one of: {', '.join(map(str, allowed))}.",
            )
