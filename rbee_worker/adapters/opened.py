"""An adapter's path becomes an `Adapter`, whichever kind of file it is."""

from __future__ import annotations

from pathlib import Path

from rbee_worker.adapters import gguf_file, peft_files
from rbee_worker.adapters.adapter import Adapter
from rbee_worker.checkpoint import Checkpoint
from rbee_worker.errors import AdapterError


def open_adapter(path: Path, ckpt: Checkpoint, scale: float = 1.0) -> Adapter:
    """Open a PEFT directory or a GGUF adapter for the model `ckpt`: headers and settings are
    checked, no weights are read.

    scale: a factor on all that it adds. Raises AdapterError, CheckpointError, UnsupportedModel.
    """
    if path.is_dir() and (path / peft_files.CONFIG).is_file():
        return peft_files.opened(path, ckpt, scale)
    if path.is_file() and path.suffix == ".gguf":
        return gguf_file.opened(path, ckpt, scale)
    raise AdapterError(
        f"{path}: not an adapter.",
        fix=f"give a directory with {peft_files.CONFIG} and {peft_files.WEIGHTS}, or a .gguf file",
    )
