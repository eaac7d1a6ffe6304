"""`rbee-worker pull`: downloads a model into the cache and prints what was downloaded."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import click

from rbee_worker.cli.terminal import is_rich, size, write_answer
from rbee_worker.config import Settings

_WEIGHTS = (".gguf", ".safetensors")


@click.argument("ref", required=False, help="what to fetch (default: RBEE_MODEL, else smollm2)")
def pull(settings: Settings, ref: str) -> None:
    """Fetch a model, check it, print its path and its checksums."""
    from rbee_worker.checkpoint import open_checkpoint, refs
    from rbee_worker.cli.progress import Bar

    with Bar(enabled=is_rich(sys.stderr)) as bar:
        path = refs.pull(settings.model, bar.update, cache_dir=settings.cache_dir)
    open_checkpoint(str(path))  # reports a damaged file now, not at the first prompt
    write_answer(f"{path}\n")
    for file in weight_files(path):
        write_answer(f"sha256:{sha256(file)}  {size(file.stat().st_size):>9}  {file.name}\n")


def weight_files(path: Path) -> list[Path]:
    """The weight files: `path` itself, or those in a directory."""
    if path.is_file():
        return [path]
    return sorted(p for p in path.iterdir() if p.suffix in _WEIGHTS)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
