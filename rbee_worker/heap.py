"""The C library's heap in a process that lives long and should not grow.

glibc gives each thread a heap of its own, up to eight for a core, and what a heap held at its peak
it mostly keeps. It also keeps more with time: freeing a block that was mapped by itself (from 128
KiB on) makes it take blocks of that size from a heap from then on, up to 32 MiB, and return free
memory only from twice that on. So one long prompt after another, each prepared in another thread,
makes a server larger for hours, though nothing is lost.
"""

from __future__ import annotations

import ctypes

# From malloc.h. Setting a threshold, even to the value that it has at first, also ends its growth.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
HEAPS = 2  # for all threads: they hold the interpreter's lock most of the time anyhow
RETURNED_FROM = MAPPED_FROM = 128 << 10  # bytes


def settle(*, computes: bool = False) -> bool:
    """Let this process have few heaps, which return what they do not need. Returns False where the
    C library is not glibc, which is left as it is. Call it before threads start.

    computes: it makes and drops large arrays in every step, which cost more if each is mapped by
    itself: only the number of heaps is limited.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return False
    settings = [(_M_ARENA_MAX, HEAPS)]
    if not computes:
        settings += [(_M_TRIM_THRESHOLD, RETURNED_FROM), (_M_MMAP_THRESHOLD, MAPPED_FROM)]
    return all(mallopt(name, value) == 1 for name, value in settings)
