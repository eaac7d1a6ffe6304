"""Standard output and standard error that write everything, or fail.

With PYTHONUNBUFFERED (which most container images set) or `python -u`, Python's text streams call
write(2) once and ignore how much of the text it took. A pipe whose reader is slower takes 64 KiB at
a time; if a signal arrives meanwhile, the rest is lost without an error.
"""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class Whole(io.FileIO):
    """An unbuffered file whose `write` repeats until everything is written."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write all of `data`. Raises OSError; BlockingIOError if the file must not block."""
        left = memoryview(data)
        while left:
            taken = super().write(left)
            if taken is None:
                raise BlockingIOError(0, "the file takes no more now", len(left))
            left = left[taken:]
        return len(memoryview(data))


class Lossy(Whole):
    """An unbuffered file whose writes never fail: what it does not take is lost."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write as much of `data` as possible."""
        with suppress(OSError):
            return super().write(data)
        return len(memoryview(data))


def lossy_stderr() -> None:
    """Replace `sys.stderr`, so that a daemon does not end because its log's disk is full or the
    reader of its log has gone."""
    if sys.stderr is None:  # the descriptor was closed when the program began
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    with suppress(io.UnsupportedOperation):  # a test's, in memory
        raw = Lossy(sys.stderr.fileno(), "w", closefd=False)
        encoding, errors = sys.stderr.encoding, sys.stderr.errors
        sys.stderr = io.TextIOWrapper(raw, encoding=encoding, errors=errors, write_through=True)


def whole_streams() -> None:
    """Replace `sys.stdout` and `sys.stderr` if they could lose a part of a write."""
    sys.stdout, sys.stderr = _whole(sys.stdout), _whole(sys.stderr)


def _whole(stream: TextIO) -> TextIO:
    if not isinstance(getattr(stream, "buffer", None), io.RawIOBase):
        return stream  # Python's own buffer repeats until everything is written
    return io.TextIOWrapper(
        Whole(stream.fileno(), "w", closefd=False),
        encoding=stream.encoding,
        errors=stream.errors,
        write_through=True,
    )
