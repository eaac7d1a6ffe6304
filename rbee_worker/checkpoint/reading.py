"""Reads the small text and JSON files of a model directory, with size limits and safe links.

A downloaded or unpacked directory may contain links. A link that leads out of the directory would
make the worker read a file that its owner never meant to share, so a link may lead to two places
only: the directory itself, and the blob store of a Hugging Face cache, where all links of such a
cache lead.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from rbee_worker.errors import CheckpointError
from rbee_worker.machine import shortage

MAX_JSON_BYTES = 4 << 20

_AGAIN = "fetch the file again"
_POINTER = b"version https://git-lfs"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def inside(root: Path, path: Path) -> Path:
    """Return `path` if, with its links followed, it is in `root` or in the blob store beside it.

    Raises CheckpointError.
    """
    try:
        home, found = root.resolve(), path.resolve()
    except (OSError, RuntimeError):  # RuntimeError: links in a circle, before Python 3.13
        raise CheckpointError(f"{path}: a link that leads nowhere.", fix=_AGAIN) from None
    stores = [home]
    for folder in home.parents:  # `root` is a snapshot, or a folder inside one
        if folder.name == "snapshots":
            stores.append(folder.parent / "blobs")
    if not any(found.is_relative_to(store) for store in stores):
        raise CheckpointError(
            f"{path}: a link that leads out of the model's directory.",
            fix="put the file itself there, or give the directory that holds it",
        )
    return path


def refuse_pointer(path: Path, start: bytes) -> None:
    """Raise CheckpointError if `start`, the file's first bytes, show that it is a git-lfs
    pointer."""
    if start.startswith(_POINTER):
        raise CheckpointError(
            f"{path}: a git-lfs pointer, not the file itself.",
            fix="run `git lfs pull` in its directory, or download it from the model's page",
        )


def read_bytes(path: Path, most: int) -> bytes:
    """A file of at most `most` bytes. Raises CheckpointError when it is anything else, OSError if
    the machine gives this process too little."""
    try:
        if not path.is_file():  # opening a pipe would block until somebody writes to it
            raise ValueError("not a regular file")
        if path.stat().st_size > most:
            raise ValueError(f"larger than {most >> 20} MiB")
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        if shortage(error) is not None:  # of memory or descriptors: the file is innocent
            raise
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
    """The JSON object in `text`; all its strings are valid Unicode. Raises CheckpointError."""
    try:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError("not a JSON object")
        if _SURROGATE.search(text):  # half a surrogate pair makes a string that cannot be encoded
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())[:120]
        if isinstance(error, UnicodeEncodeError):
            said = "a string has half of a surrogate pair"
        raise CheckpointError(f"{where}: cannot be read as JSON ({said}).", fix=_AGAIN) from None
    return value
