"""The backends there are, and which one some settings get. Adding one is a package and a row here.

Imports no backend until it is asked for.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import NamedTuple, cast

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError
from rbee_worker.ops.backend import Backend


class _Row(NamedTuple):
    """A backend's name on the command line and the module whose `BACKEND` it is."""

    name: str
    module: str


AUTO = "auto"
ROWS = (  # `auto` is the first that does not refuse
    _Row("cpu", "rbee_worker.ops.cpu.backend.cpu"),
    _Row("reference", "rbee_worker.ops.reference.backend"),
)


@cache
def backend(name: str) -> Backend:
    """The backend of that name. Raises UsageError naming those there are."""
    for row in ROWS:
        if row.name == name:
            return cast(Backend, importlib.import_module(row.module).BACKEND)
    raise UsageError(
        f"--backend {name} is not available in this version.",
        fix=f"use one of: {', '.join((AUTO, *(row.name for row in ROWS)))}.",
    )


def preload() -> None:
    """Import what most models will need of the first backend, if it can be had here."""
    first = backend(ROWS[0].name)
    if first.refuses(Settings()) is None:
        first.preload()


def choose_backend(settings: Settings) -> Backend:
    """The backend that `settings` get; auto: the first that serves them.

    Raises UsageError where none does, or the one that is asked for does not.
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
    """Why `auto` is not its first choice here, in a line for people; empty where it is."""
    refusal = backend(ROWS[0].name).refuses(settings) if settings.backend == AUTO else None
    if refusal is None:
        return ()
    chosen = choose_backend(settings)
    return (
        f"backend {chosen.name} ({chosen.title}), not {ROWS[0].name}: {refusal.why} "
        f"Fix: {refusal.fix}",
    )


def check_settings(settings: Settings) -> None:
    """Raises UsageError for a feature that no backend has yet."""
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
