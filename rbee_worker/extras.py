"""Missing packages: one line for each, with what needs it and what to install.

Most packages are imported where they are first needed. `missing` and `need` check for them
beforehand; `said_of` explains the ImportError that is raised otherwise. This module imports nothing
that may itself be missing.
"""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rbee_worker.errors import UsageError, WorkerError

# Package -> our extra that installs it, and what needs it. All others are installed always.
EXTRAS = {
    "torch": ("torch", "--backend reference and verify compute with it"),
    "transformers": ("torch", "verify compares with it"),
    "safetensors": ("torch", "verify reads checkpoints with it"),
    "triton": ("cuda", "--backend cuda computes with it"),
    "opentelemetry": ("otel", "--otel-endpoint sends traces with it"),
}
_OURS = __name__.partition(".")[0]


def missing(module: str) -> tuple[str, str] | None:
    """What is missing and the fix, or None if `module` is installed.

    Imports only the parent packages of a dotted name, not the module itself.
    """
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        found = False
    if found:
        return None
    return said_of(ModuleNotFoundError(f"No module named {module!r}", name=module))


def need(*modules: str) -> None:
    """Raise UsageError for the first of `modules` that is not installed; import none of them."""
    from rbee_worker.errors import UsageError

    for module in modules:
        if (gone := missing(module)) is not None:
            raise UsageError(gone[0], fix=gone[1])


def usage_error(error: BaseException) -> UsageError | None:
    """`error` as a UsageError; None if it is not a failed import of another project's package."""
    from rbee_worker.errors import UsageError

    said = said_of(error)
    return None if said is None else UsageError(said[0], fix=said[1])


def explained(error: BaseException) -> WorkerError | None:
    """`error` as what a person reads: itself, a lost device, a shortage, a package that is missing;
    else None."""
    from rbee_worker.errors import ModelError, WorkerError, device_lost
    from rbee_worker.machine import shortage

    known = error if isinstance(error, WorkerError) else device_lost(error)
    if known is not None:
        return known
    short = shortage(error)
    return usage_error(error) if short is None else ModelError(short[0], fix=short[1])


def said_of(error: BaseException) -> tuple[str, str] | None:
    """What is missing or broken, and the fix; None for an error of another kind."""
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
