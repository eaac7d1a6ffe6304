"""The memory for stored weights: one mapping, filled piece by piece.

Address space is reserved at once; memory is used only when it is written. It comes in huge pages if
the system has them: with small pages, getting memory would be most of the time of repacking.
"""

from __future__ import annotations

import mmap
import sys

import numpy as np
import numpy.typing as npt

LINE = 64  # bytes; every piece begins on a cache line
PAGE = 1 << 21  # bytes of a huge page
RESERVED = 1 << 36  # bytes of address space if the needed size is unknown

# Allows reserving more than the machine has. Python names this flag from 3.13 on.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


class Arena:
    """Pieces one after another. Freed as a whole, with the last array in it.

    complete: the pieces have their contents already, and cannot be written.
    """

    complete = False

    def __init__(self, capacity: int = RESERVED) -> None:
        self._bytes = np.frombuffer(_mapped(-(-capacity // PAGE) * PAGE + PAGE), np.uint8)
        self.used = 0

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """The next `nbytes`, zeroed."""
        start = self.used
        self.used = -(-(start + nbytes) // LINE) * LINE
        assert self.used <= len(self._bytes), "the weights are larger than was planned"
        return self._bytes[start : start + nbytes]

    def done(self) -> None:
        """Everything is taken and written."""


def _mapped(capacity: int) -> mmap.mmap:
    if hasattr(mmap, "MAP_PRIVATE"):
        kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
        mapped = mmap.mmap(-1, capacity, flags=kind)
    else:
        mapped = mmap.mmap(-1, capacity)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        mapped.madvise(mmap.MADV_HUGEPAGE)
    return mapped
