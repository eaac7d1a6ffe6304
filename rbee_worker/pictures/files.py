"""A picture on this machine, as a caller of the library or of a command names it."""

from __future__ import annotations

import os
from pathlib import Path

from rbee_worker.errors import UsageError
from rbee_worker.types import PictureFile


def picture_file(given: str | os.PathLike[str] | bytes, field: str, most: int) -> PictureFile:
    """The picture of a path, or of a file's bytes. field: its name in errors; most: bytes that are
    read. Raises UsageError if it cannot be read."""
    if isinstance(given, bytes):
        return PictureFile(data=given, field=field)
    path = Path(given).expanduser()
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except OSError as error:
        raise UsageError(
            f"{path}: {error.strerror or error}.", fix="give a PNG, JPEG or WebP file."
        ) from None
    if len(data) > most:
        raise UsageError(
            f"{path}: has more than {most >> 10} KiB.",
            fix="give a smaller picture, or a larger --max-picture-kb.",
        )
    return PictureFile(data=data, field=field)
