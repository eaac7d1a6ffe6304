"""A path or reference becomes metadata and tensors in HF vocabulary. Torch-free but `weights`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rbee_worker.checkpoint.opened import Checkpoint, open_checkpoint, open_found

__all__ = ["Checkpoint", "open_checkpoint", "open_found"]


def __getattr__(name: str) -> Any:
    """Opening is imported when it is first used: finding a model (`refs`) needs none of it."""
    if name in __all__:
        from rbee_worker.checkpoint import opened

        return getattr(opened, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
