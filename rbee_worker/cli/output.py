"""Standard output and error take all that is written to them, or the write fails.

With PYTHONUNBUFFERED (which most container images set) or `python -u`, Python's text streams pass
their text to write(2) once and ignore how much of it was taken. A pipe whose reader is slower takes
64 KiB at a time; if a signal arrives meanwhile, the rest is lost without an error.
"""

from __future__ import annotations

import io
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Whole(io.FileIO):
    """A file whose `write` goes on until everything is written; nothing is kept back."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of `data`. Raises OSError; BlockingIOError where the file may not wait."""
        left = memoryview(data)
        while left:
            taken = super().write(left)
            if taken is None:
                raise BlockingIOError(0, "the file takes no more now", len(left))
            left = left[taken:]
        return len(memoryview(data))


def whole_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr` where their writes may be cut short."""
    sys.stdout, sys.stderr = _whole(sys.stdout), _whole(sys.stderr)


def _whole(stream: TextIO) -> TextIO:
    if not isinstance(getattr(stream, "buffer", None), io.RawIOBase):
        return stream  # buffered by Python, whose buffer goes on until everything is written
    return io.TextIOWrapper(
        Whole(stream.fileno(), "w", closefd=False),
        encoding=stream.encoding,
        errors=stream.errors,
        write_through=True,
    )
