"""rbee-worker: one process group that serves one language model, in readable Python.

`rbee_worker.load("smollm2")` gives a model to use from Python (library.py).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rbee_worker.library import Model, load
    from rbee_worker.session.answer import Answer

__version__ = "0.1.0"
__all__ = ["Answer", "Model", "__version__", "load"]


def __getattr__(name: str) -> Any:
    """Import the library on first use: the commands start faster without it."""
    if name in ("Answer", "Model", "load"):
        from rbee_worker import library

        return getattr(library, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
