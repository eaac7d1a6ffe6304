"""A path or reference becomes metadata and tensors in Hugging Face (HF) vocabulary, without torch.

`open_checkpoint` is the way in. Every reader speaks HF names, whatever the file on disk calls them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rbee_worker.checkpoint.checkpoint import Checkpoint
    from rbee_worker.checkpoint.opened import open_checkpoint, open_found

__all__ = ["Checkpoint", "open_checkpoint", "open_found"]


def __getattr__(name: str) -> Any:
    """Import `opened` on first use: finding a model (`refs`) needs none of it."""
    if name in __all__:
        from rbee_worker.checkpoint import opened

        return getattr(opened, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
