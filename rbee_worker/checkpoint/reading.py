"""Small files of a model directory: text and JSON, bounded, and links that stay where they belong.

A directory that was downloaded or unpacked may hold links. One that leads out of the directory
would make the worker read a file that its owner never meant to show, so only two places are
allowed: the directory itself, and the blob store of a Hugging Face cache, which is where all of its
links lead.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rbee_worker.errors import CheckpointError

MAX_JSON_BYTES = 4 << 20

_AGAIN = "fetch the file again"
_POINTER = b"version https://git-lfs"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def inside(root: Path, path: Path) -> Path:
    """`path`, when following its links stays in `root` or leads to the blob store beside it.

    Raises CheckpointError.
    """
    try:
        home, found = root.resolve(), path.resolve()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        raise CheckpointError(f"{path}: a link that leads nowhere.", fix=_AGAIN) from None
    stores = [home]
    for folder in home.parents:  # `root` is a snapshot, or a folder of one
        if folder.name == "snapshots":
            stores.append(folder.parent / "blobs")
    if not any(found.is_relative_to(store) for store in stores):
        raise CheckpointError(
            f"{path}: a link that leads out of the model's directory.",
            fix="put the file itself there, or give the directory that it is in",
        )
    return path


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raise CheckpointError for a file that git-lfs keeps elsewhere, told by its first bytes."""
    if start.startswith(_POINTER):
        raise CheckpointError(
            f"{path}: a git-lfs pointer, not the file itself.",
            fix="run `git lfs pull` in its directory, or download it from the model's page",
        )


def read_bytes(path: Path, most: int) -> bytes:
    """A file of at most `most` bytes. Raises CheckpointError when it is anything else."""
    try:
        if not path.is_file():  # opening a pipe would wait for its writer
            raise ValueError("not a regular file")
        if path.stat().st_size > most:
            raise ValueError(f"larger than {most >> 20} MiB")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}).", fix=_AGAIN) from None
    refuse_pointer(path, data[:64])
    return data


def read_text(path: Path, most: int = MAX_JSON_BYTES) -> str:
    """A small UTF-8 file. Raises CheckpointError when it is anything else."""
    try:
        return read_bytes(path, most).decode()
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{path}: cannot be read as text ({error}).", fix=_AGAIN) from None


def read_json(path: Path, most: int = MAX_JSON_BYTES) -> dict[str, Any]:
    """The object in a small JSON file. Raises CheckpointError when it is anything else."""
    return parse_json(read_text(path, most), str(path))


def parse_json(text: str, where: str) -> dict[str, Any]:
    """The JSON object `text`, whose strings are all Unicode. Raises CheckpointError."""
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        if _SURROGATE.search(text):  # half of a pair makes a string that no one can write
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:120]
        if isinstance(error, UnicodeEncodeError):
            said = "a string has half of a surrogate pair"
        raise CheckpointError(f"{where}: cannot be read as JSON ({said}).", fix=_AGAIN) from None
    return value
