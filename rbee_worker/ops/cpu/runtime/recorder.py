"""Recording a program: activations as places in one arena, operations as entries to replay.

While a model's Python runs once, each operation adds an entry and returns `Buf` handles in place of
arrays. A buffer's memory is given out again when the last handle to it is gone, so Python's own
reference counts are the liveness analysis. A barrier goes before an entry only where the entry
touches what another thread may have touched since the last barrier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rbee_worker.ops.cpu.runtime.matrix import Part
from rbee_worker.ops.cpu.shared.regions import OWN, Heap, Place, Region

ROWS = "rows"  # threads split a place by its rows
ALL = "all"  # access pattern unknown: any thread may touch any byte
REPLICATED = 2048  # columns that a thread computes sooner than it waits for another to do it


def cells(count: int) -> str:
    """Threads split a place by `count` cells of each row (`shares.py`); 1 is by rows."""
    return ROWS if count == 1 else f"cells {count}"


@dataclass(frozen=True)
class Slot:
    """A pointer argument: an offset into the arena, or into each thread's private memory."""

    offset: int
    private: bool = False


@dataclass(eq=False)
class Buf:
    """An activation [rows, width] float32, its rows `stride` floats apart, from column `first`.

    made: how threads split the writing of it. ready: the same numbers as products take them, by
    form (`kernels/product/prepare.py`).
    """

    region: Region
    width: int
    stride: int
    first: int = 0
    made: str = ALL
    ready: dict[str, Region] = field(default_factory=dict)

    @property
    def slot(self) -> Slot:
        return Slot(self.region.place.first + 4 * self.first, self.is_private)

    @property
    def is_private(self) -> bool:
        """Has each thread one of its own?"""
        return self.region.place.space == OWN

    @property
    def is_whole(self) -> bool:
        """Are its rows one after another, nothing between them?"""
        return self.stride == self.width

    def columns(self, first: int, width: int) -> Buf:
        """A view of some columns."""
        assert first + width <= self.width
        return Buf(self.region, width, self.stride, self.first + first, self.made)


@dataclass(frozen=True)
class Touch:
    """An entry reads or writes a place, which its threads split as `share` says."""

    place: Place
    share: str
    writes: bool

    def conflicts(self, other: Touch) -> bool:
        """May one thread touch here what another one writes?"""
        if not (self.writes or other.writes) or not self.place.overlaps(other.place):
            return False
        alike = self.share == other.share != ALL
        return not (alike and self.place == other.place)


@dataclass(frozen=True)
class Call:
    """A kernel with its arguments; `Slot`s are not addresses yet. product, dealt: see
    `Recorder.call`. replicated: every thread runs the whole entry, into private memory."""

    kernel: str
    fields: dict[str, Any]
    barrier: bool
    product: Part | None = None
    dealt: int = 0
    replicated: bool = False


@dataclass(frozen=True)
class Result:
    """What a program's first `entries` entries leave in `buf`."""

    buf: Buf
    entries: int


class Recorder:
    """Collects entries for at most `rows` rows and a team of `threads`."""

    def __init__(self, rows: int, threads: int) -> None:
        self.rows, self.threads = rows, threads
        self.entries: list[Call] = []
        self._shared, self._private = Heap(), Heap(OWN)
        self._pending: list[Touch] = []

    # ---- memory

    def replicates(self, columns: int) -> bool:
        """True if it is cheaper for every thread to recompute an entry into private memory than to
        share it.

        A step of one row gives the threads nothing to split in a norm: one would work, the others
        wait for it, and then fetch what it wrote from its cache.
        """
        return self.rows == 1 and columns <= REPLICATED

    def buffer(self, width: int, *, private: bool = False) -> Buf:
        """A new activation of `width` columns; private: one for each thread."""
        return Buf(self.region(4 * width * self.rows, private=private), width, width)

    def region(self, nbytes: int, *, private: bool = False) -> Region:
        """Memory of at least `nbytes`, shared by all threads or private to each."""
        if not private:
            return self._shared.take(nbytes)
        self._private.pass_on()  # no other thread can be using it
        return self._private.take(nbytes)

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the memory that threads share, and of each thread's private memory."""
        return self._shared.size, self._private.size

    # ---- entries

    def call(
        self,
        kernel: str,
        touches: Sequence[Touch],
        *,
        product: Part | None = None,
        dealt: int = 0,
        **fields: Any,
    ) -> None:
        """Append a kernel; a `Slot` among the fields becomes an address in the arena.

        product: the weights that it multiplies with, which threads fetch before they get there;
        `dealt` groups of their rows have a thread beforehand, the others are taken by whoever is
        free (`pieces.py`). An entry that writes private memory is run in full by every thread.
        """
        replicated = any(t.place.space == OWN for t in touches if t.writes)
        assert all(replicated == (t.place.space == OWN) for t in touches if t.writes)
        shared = [t for t in touches if t.place.space != OWN]
        if replicated:
            shared = [replace(t, share=ALL) for t in shared]
        barrier = any(t.conflicts(p) for t in shared for p in self._pending)
        if barrier:
            self._pending.clear()
            self._shared.pass_on()
        self._pending += shared
        self.entries.append(Call(kernel, fields, barrier, product, dealt, replicated))


def reads(buf: Buf, share: str = ROWS) -> Touch:
    """An entry reads a buffer."""
    return Touch(buf.region.place, share, False)


def writes(buf: Buf, share: str = ROWS) -> Touch:
    """An entry writes a buffer."""
    buf.made = share
    return Touch(buf.region.place, share, True)
