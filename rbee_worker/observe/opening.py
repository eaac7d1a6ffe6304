"""Files that the worker writes for its operator, opened so that a bad path is an error at once."""

from __future__ import annotations

import errno
import os

from rbee_worker.errors import UsageError


def opened(option: str, path: str, flags: int, *, mode: int, fix: str) -> int:
    """A descriptor of `path` for writing. option: that names it; flags: O_APPEND or O_TRUNC; mode:
    of a file that is made; fix: what its error suggests. Raises UsageError, also for a named pipe
    that nobody reads, which would otherwise wait without end."""
    common = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
    try:
        file = os.open(path, common | flags, mode)
        os.set_blocking(file, True)
        return file
    except OSError as error:
        unread = error.errno == errno.ENXIO
        reason = "nobody reads this pipe" if unread else error.strerror
        raise UsageError(f"{option} {path}: {reason}.", fix=fix) from None
