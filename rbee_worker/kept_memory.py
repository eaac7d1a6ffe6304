"""Memory that outlives an engine's process: its repacked weights, for the engine that follows.

The client's process makes it, hands its descriptor to every engine that it starts and never looks
inside. It has no name, so nothing is left when the last process that has the descriptor ends,
whatever ends it. Imports almost nothing: `process/child.py` needs it before all else.
"""

from __future__ import annotations

import os
import sys
import weakref

# Seals of a file in memory, with Linux's numbers: Python does not name the last one.
_ADD_SEALS, _GET_SEALS = 1033, 1034
_SEAL, _SHRINK, _GROW, _FUTURE_WRITE = 1, 2, 4, 16
_FINAL = _SEAL | _SHRINK | _GROW | _FUTURE_WRITE
_BLOCK = 512  # bytes: what `st_blocks` counts


class KeptMemory:
    """A file in memory without a name, closed with the object.

    Its contents are complete exactly if it is sealed. A seal can be neither taken back nor half
    set, and from then on no process can map the memory for writing.
    """

    def __init__(self, fd: int) -> None:
        self.fd = fd
        weakref.finalize(self, os.close, fd)

    @classmethod
    def create(cls) -> KeptMemory | None:
        """Empty memory; None where the system has none to give (it is not Linux, for example)."""
        if sys.platform != "linux":
            return None
        try:
            return cls(os.memfd_create("rbee-weights", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        except OSError:  # forbidden, or no descriptor is left: engines repack for themselves
            return None

    @property
    def complete(self) -> bool:
        """Whether an engine has filled it."""
        return bool(_fcntl(self.fd, _GET_SEALS) & _FUTURE_WRITE)

    def usable(self) -> int:
        """The bytes of its contents if they are complete. Others are given back to the system: an
        engine did not live to finish them."""
        if self.complete:
            return os.fstat(self.fd).st_blocks * _BLOCK
        os.ftruncate(self.fd, 0)
        return 0

    def finish(self, nbytes: int) -> None:
        """Give back what lies after the first `nbytes`; what is there is complete. Raises OSError
        where the system cannot seal it: then it is not."""
        os.ftruncate(self.fd, nbytes)
        _fcntl(self.fd, _ADD_SEALS, _FINAL)


def _fcntl(fd: int, command: int, value: int = 0) -> int:
    import fcntl  # late: not every system has it

    return fcntl.fcntl(fd, command, value)
