"""The memory that held weights lie in: one memfd mapping, filled piece by piece.

Its descriptor can be kept by another process, so that a restarted engine finds its weights
repacked. Address space is reserved at once; memory is taken when it is written.
"""

from __future__ import annotations

import mmap
import os
import weakref

import numpy as np
import numpy.typing as npt

LINE = 64  # bytes; every piece begins on a cache line
PAGE = 1 << 21  # bytes; huge pages are asked for, where the system gives them to shared memory
RESERVED = 1 << 36  # bytes of address space where nobody says how much is needed


class Arena:
    """Pieces one after another. Given back as a whole, when the last array in it is gone."""

    def __init__(self, capacity: int = RESERVED) -> None:
        capacity = -(-capacity // PAGE) * PAGE + PAGE
        self.fd = -1  # where the system has no memfd, nobody can keep the memory
        if hasattr(os, "memfd_create"):
            self.fd = os.memfd_create("rbee-weights", os.MFD_CLOEXEC)
            os.ftruncate(self.fd, capacity)  # sparse
            weakref.finalize(self, os.close, self.fd)
        mapped = mmap.mmap(self.fd, capacity)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            mapped.madvise(mmap.MADV_HUGEPAGE)
        self._bytes = np.frombuffer(mapped, np.uint8)
        self.used = 0

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """The next `nbytes`, zeros."""
        start = self.used
        self.used = -(-(start + nbytes) // LINE) * LINE
        assert self.used <= len(self._bytes), "the weights are larger than was planned"
        return self._bytes[start : start + nbytes]
