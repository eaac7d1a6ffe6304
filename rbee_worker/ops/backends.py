"""The list of backends, and the choice among them. A new backend is a package and a row here.

No backend is imported before it is needed.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import NamedTuple, cast

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.ops.backend import Backend


class _Row(NamedTuple):
    """A backend's name on the command line, and the module that has its `BACKEND`."""

    name: str
    module: str


AUTO = "auto"
ROWS = (  # `auto` chooses the first that does not refuse
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
    """Import what most models need of the first backend, if it is available here."""
    first = backend(ROWS[0].name)
    if first.refuses(Settings()) is None:
        first.preload()


def choose_backend(settings: Settings) -> Backend:
    """The backend for `settings`; auto: the first that can serve them.

    Raises UsageError if none can, or if the chosen one cannot.
    """
    check_settings(settings)
    asked = ROWS[0].name if settings.backend == AUTO else settings.backend
    chosen = backend(asked)
    refusal = chosen.refuses(settings)
    if refusal is None:
        return chosen
    if settings.backend == AUTO:
        for row in ROWS[1:]:
            if backend(row.name).refuses(settings) is None:
                return backend(row.name)
    raise UsageError(refusal.why, fix=refusal.fix)


def backend_notes(settings: Settings) -> tuple[str, ...]:
    """Why `auto` did not choose its first backend here, in one line; empty if it did."""
    refusal = backend(ROWS[0].name).refuses(settings) if settings.backend == AUTO else None
    if refusal is None:
        return ()
    chosen = choose_backend(settings)
    return (
        f"backend {chosen.name} ({chosen.title}), not {ROWS[0].name}: {refusal.why} "
        f"Fix: {refusal.fix}",
    )


def check_settings(settings: Settings) -> None:
    """Raise UsageError for a feature that no backend has yet."""
    refused = {
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
