"""Weights in memory that the next engine's process uses too (`rbee_worker.kept_memory`).

A file in memory has small pages unless its system is set up otherwise. Here it gets huge ones by
asking for each of them (MADV_COLLAPSE, Linux 6.1): the ranges hold a single small page then, so
nothing has to be copied, and this takes less time than the faults of small pages.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
import weakref
import zlib
from contextlib import suppress

import numpy as np
import numpy.typing as npt

from rbee_worker.kept_memory import KeptMemory
from rbee_worker.ops.cpu.runtime.arena import LINE, PAGE, Arena

_NONE, _READ, _WRITE = 0, 1, 2  # what may be done in a mapping; Linux's numbers
_FIXED, _NORESERVE = 0x10, 0x4000
_COLLAPSE = 25
MOST_AHEAD = 1 << 27  # bytes of memory got before they are needed
_HEADER = struct.Struct("<32sQQ")  # key, bytes used, checksum of the sizes of all pieces

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = _libc.mprotect.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def kept_arena(kept: KeptMemory, key: bytes, capacity: int) -> Arena:
    """An arena in `kept`, complete if an engine has filled it for the same `key` (32 bytes: what
    the weights are, and how they are held). One of this process's own where that cannot be had."""
    with suppress(OSError):
        if not kept.complete:
            return _NewArena(kept, capacity, key)
        found = _CompleteArena(kept)
        if found.key == key:
            return found
    return Arena(capacity)


class _NewArena(Arena):
    """Fills `kept`, for this engine and those after it."""

    def __init__(self, kept: KeptMemory, capacity: int, key: bytes) -> None:
        """Raises OSError."""
        size = -(-(capacity + LINE) // PAGE) * PAGE
        os.ftruncate(kept.fd, size)
        self._kept, self._key = kept, key
        self._bytes = _mapped(kept.fd, size, _READ | _WRITE)
        self._there = 0  # bytes that have memory
        self._huge = True  # as far as is known
        self._sizes = 0
        self.used = LINE  # after the header

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        assert self._bytes.flags.writeable, "the weights are complete"
        piece = super().take(nbytes)
        self._sizes = _checksum(self._sizes, nbytes)
        if self.used > self._there:  # more than is needed: each request waits for all processors
            ahead = self._there + min(self._there, MOST_AHEAD)
            self._provide(min(max(-(-self.used // PAGE) * PAGE, ahead), len(self._bytes)))
        return piece

    def done(self) -> None:
        """From now on a fault that writes here ends the process, instead of changing answers."""
        if not self._bytes.flags.writeable:
            return
        header = _HEADER.pack(self._key, self.used, self._sizes)
        self._provide(PAGE)
        self._bytes[: len(header)] = np.frombuffer(header, np.uint8)
        self._bytes.flags.writeable = False
        size = -(-self.used // PAGE) * PAGE
        _check(_libc.mprotect(self._bytes.ctypes.data, size, _READ))
        with suppress(OSError):  # it cannot be sealed: the next engine will repack
            self._kept.finish(size)

    def _provide(self, end: int) -> None:
        """Get memory up to `end`. A lack of it is an error here; in a page fault it would be the
        end of the process. Raises MemoryError."""
        if end <= self._there:
            return
        start, self._there = self._there, end
        try:
            if self._huge:
                for page in range(start, end, PAGE):
                    os.pwrite(self._kept.fd, b"\0", page)
                where = self._bytes.ctypes.data + start
                self._huge = _libc.madvise(where, end - start, _COLLAPSE) == 0
            if not self._huge:
                os.posix_fallocate(self._kept.fd, start, end - start)
        except OSError as error:
            raise MemoryError(f"shared memory for weights: {error.strerror}") from None


class _CompleteArena(Arena):
    """What an earlier engine has filled; nothing can write to it."""

    complete = True

    def __init__(self, kept: KeptMemory) -> None:
        """Raises OSError."""
        self._bytes = _mapped(kept.fd, os.fstat(kept.fd).st_size, _READ)
        self.key, self._end, self._expected = _HEADER.unpack(self._bytes[: _HEADER.size].tobytes())
        self._sizes = 0
        self.used = LINE

    def take(self, nbytes: int) -> npt.NDArray[np.uint8]:
        self._sizes = _checksum(self._sizes, nbytes)
        return super().take(nbytes)

    def done(self) -> None:
        there = (self.used, self._sizes) == (self._end, self._expected)
        assert there, "the weights that were kept have other sizes"


def _checksum(before: int, nbytes: int) -> int:
    return zlib.crc32(nbytes.to_bytes(8, "little"), before)


def _mapped(fd: int, size: int, allowed: int) -> npt.NDArray[np.uint8]:
    """`size` bytes of a file, at an address where huge pages can be. Raises OSError."""
    kind = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NORESERVE
    space = _address(_libc.mmap(None, size + PAGE, _NONE, kind, -1, 0))
    start = -(-space // PAGE) * PAGE
    try:
        _address(_libc.mmap(start, size, allowed, mmap.MAP_SHARED | _FIXED, fd, 0))
    except OSError:
        _libc.munmap(space, size + PAGE)
        raise
    memory = np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(start))
    owner = memory.base
    assert owner is not None
    weakref.finalize(owner, _libc.munmap, space, size + PAGE)
    memory.flags.writeable = bool(allowed & _WRITE)
    return memory


def _address(found: int | None) -> int:
    _check(-1 if found == ctypes.c_void_p(-1).value else 0)
    return found or 0


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
