"""Packages that are missing: one line for each, with what needs it and what to install.

Most are imported where they are first needed. `missing` and `need` ask for them beforehand;
`said_of` words the ImportError that comes otherwise, for those who turn errors into lines. Imports
nothing that may be missing itself.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee_worker.errors import UsageError, WorkerError

# Package -> extra of ours that has it, and what it is for. All others come with every installation.
EXTRAS = {
    "torch": ("torch", "--backend reference and verify compute with it"),
    "transformers": ("torch", "verify compares with it"),
    "safetensors": ("torch", "verify reads checkpoints with it"),
    "opentelemetry": ("otel", "--otel-endpoint sends traces with it"),
}
_OURS = __name__.partition(".")[0]


def missing(module: str) -> tuple[str, str] | None:
    """What is missing and the fix, if `module` is not installed.

    Does not import it, only the packages that a dotted name is part of.
    """
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package it is part of
        found = False
    if found:
        return None
    return said_of(ModuleNotFoundError(f"No module named {module!r}", name=module))


def need(*modules: str) -> None:
    """Raises UsageError for the first of `modules` that is not installed; imports none of them."""
    from rbee_worker.errors import UsageError

    for module in modules:
        if (gone := missing(module)) is not None:
            raise UsageError(gone[0], fix=gone[1])


def usage_error(error: BaseException) -> UsageError | None:
    """`error` as what a person reads; None where it is no import of other people's package."""
    from rbee_worker.errors import UsageError

    said = said_of(error)
    return None if said is None else UsageError(said[0], fix=said[1])


def explained(error: BaseException) -> WorkerError | None:
    """`error` as what a person reads: itself, a shortage, a package that is missing; else None."""
    from rbee_worker.errors import ModelError, WorkerError
    from rbee_worker.machine import shortage

    if isinstance(error, WorkerError):
        return error
    short = shortage(error)
    return usage_error(error) if short is None else ModelError(short[0], fix=short[1])


def said_of(error: BaseException) -> tuple[str, str] | None:
    """What is missing or broken, and the fix; None where `error` is of another kind."""
    if not isinstance(error, ImportError) or not error.name:
        return None
    package = error.name.partition(".")[0]
    if package == _OURS or package in sys.stdlib_module_names:
        return None
    extra, use = EXTRAS.get(package, ("", ""))
    if isinstance(error, ModuleNotFoundError) and extra:
        return f"{error.name} is not installed; {use}.", f"pip install 'rbee-worker[{extra}]'."
    by = _importer(error)
    what = f"rbee-worker[{extra}]" if extra else "rbee-worker"
    if isinstance(error, ModuleNotFoundError) and error.name == package:
        told = f"{package} is not installed; {by} imports it."
    else:
        told = f"{by} cannot import {error.name}: {_short(error)}."
    return (
        told,
        f"the installation is damaged or incomplete: pip install --force-reinstall '{what}'.",
    )


def _importer(error: ImportError) -> str:
    """The innermost module of ours that was importing."""
    by, at = _OURS, error.__traceback__
    while at is not None:
        name = at.tb_frame.f_globals.get("__name__", "")
        by = name if name.partition(".")[0] == _OURS else by
        at = at.tb_next
    return by


def _short(error: ImportError) -> str:
    return " ".join(str(error).split())[:200]
