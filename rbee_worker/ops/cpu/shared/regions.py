"""Memory for a program's activations: places in an arena, taken and freed while recording."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

LINE = 64  # bytes; places begin on a cache line of their own

Words = npt.NDArray[np.int64]  # headers, records and argument structs, as kernels read them

SHARED, OWN = "arena", "own"  # spaces: one memory for all threads, one for each thread


def zeros(nbytes: int) -> npt.NDArray[np.uint8]:
    """Zeros that begin on a cache line; the system provides pages when they are touched."""
    raw = np.zeros(nbytes + LINE, np.uint8)
    start = -raw.ctypes.data % LINE
    return raw[start : start + nbytes]


@dataclass(frozen=True)
class Place:
    """Bytes first .. last - 1 of the arena, or of another memory that `space` names."""

    first: int
    last: int
    space: str = SHARED

    def overlaps(self, other: Place) -> bool:
        """Whether the two have a byte in common."""
        return self.space == other.space and self.first < other.last and other.first < self.last


class Region:
    """Memory in use; freed when the object dies."""

    def __init__(self, place: Place, free: Callable[[Place], None]) -> None:
        self.place = place
        weakref.finalize(self, free, place)


class Heap:
    """The memory of one space. `size`: bytes it needs so far.

    Freed memory is not reused before `pass_on`: another thread may still touch it, so reusing it
    at once would need one more barrier.
    """

    def __init__(self, space: str = SHARED) -> None:
        self.size = 0
        self._space = space
        self._free: list[Place] = []
        self._released: list[Place] = []

    def take(self, nbytes: int) -> Region:
        """Memory of at least `nbytes`, from the first hole that is large enough."""
        nbytes = max(LINE, -(-nbytes // LINE) * LINE)
        for n, hole in enumerate(self._free):
            if hole.last - hole.first >= nbytes:
                if hole.first + nbytes == hole.last:
                    del self._free[n]
                else:
                    self._free[n] = self._place(hole.first + nbytes, hole.last)
                return self._lend(hole.first, hole.first + nbytes)
        if self._free and self._free[-1].last == self.size:  # the space grows from its last hole
            start = self._free.pop().first
        else:
            start = self.size
        self.size = start + nbytes
        return self._lend(start, self.size)

    def pass_on(self) -> None:
        """Memory that was freed before may be reused from now on."""
        holes = sorted([*self._free, *self._released], key=lambda p: p.first)
        self._released.clear()
        merged: list[Place] = []
        for hole in holes:
            if merged and merged[-1].last == hole.first:
                merged[-1] = self._place(merged[-1].first, hole.last)
            else:
                merged.append(hole)
        self._free = merged

    def _place(self, first: int, last: int) -> Place:
        return Place(first, last, self._space)

    def _lend(self, first: int, last: int) -> Region:
        return Region(self._place(first, last), self._released.append)


def address(array: npt.NDArray[Any]) -> int:
    """Where an array's memory begins. Not by `array.ctypes`: for that, numpy asks for an attribute
    by a new string in each call, and the interpreter keeps thousands of these."""
    return int(array.__array_interface__["data"][0])
