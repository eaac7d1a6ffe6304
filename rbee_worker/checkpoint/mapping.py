"""Map a file into memory, read-only."""

from __future__ import annotations

import mmap
from pathlib import Path

from rbee_worker.checkpoint.reading import refuse_pointer
from rbee_worker.errors import BadReference, CheckpointError
from rbee_worker.machine import shortage


def map_file(path: Path, kind: str, least: int) -> mmap.mmap:
    """The whole file, mapped. kind: what the file should be; least: its minimum size in bytes.

    Raises BadReference if it cannot be opened or is not a regular file, CheckpointError if it is
    too short, OSError if the machine gives this process too little.
    """
    try:
        if not path.is_file():  # opening a pipe would block until somebody writes to it
            raise OSError("not a regular file")
        with path.open("rb") as file:
            size = path.stat().st_size
            refuse_pointer(path, file.read(64))
            if size < least:
                raise CheckpointError(
                    f"{path}: {size} bytes are too few for {kind}.",
                    fix="download the file again (it was cut short)",
                )
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        if shortage(error) is not None:  # of memory or descriptors: the file is innocent
            raise
        raise BadReference(
            f"{path}: cannot be opened ({error}).", fix="check the path and its permissions"
        ) from None


def release(mapped: mmap.mmap) -> None:
    """Let the pages of a mapping leave memory; they are read from the file again when needed."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
