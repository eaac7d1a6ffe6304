"""The heaps of a process that lives long and should not grow: the C library's and Python's.

glibc gives each thread a heap of its own, up to eight for a core, and what a heap held at its peak
it mostly keeps. It also keeps more with time: freeing a block that was mapped by itself (from 128
KiB on) makes it take blocks of that size from a heap from then on, up to 32 MiB, and return free
memory only from twice that on. So one long prompt after another, each prepared in another thread,
makes a server larger for hours, though nothing is lost.

CPython keeps objects that were freed for the next ones of their type: up to 2,000 tuples of each
length up to 20, and lists, dicts, floats. Only a full collection of garbage empties these lists,
and it is started by the number of objects that stay. Where hardly any stay, as in an engine, it
does not come for a quarter of an hour, and these lists grow meanwhile.
"""

from __future__ import annotations

import ctypes
import gc
import time
from collections.abc import Callable

# From malloc.h. Setting a threshold, even to the value that it has at first, also ends its growth.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
HEAPS = 2  # for all threads: they hold the interpreter's lock most of the time anyhow
RETURNED_FROM = MAPPED_FROM = 128 << 10  # bytes
SWEEP_EVERY_S = 20.0  # a full collection takes about a millisecond where what stays is frozen


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


class Sweep:
    """A full collection of garbage once in a while: call it often, between two pieces of work.

    clock: seconds that never go back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._last_s = clock()

    def __call__(self) -> None:
        now = self._clock()
        if now - self._last_s >= SWEEP_EVERY_S:
            gc.collect()
            self._last_s = now
