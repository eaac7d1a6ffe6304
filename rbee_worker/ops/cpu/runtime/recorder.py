"""Recording a program: activations as places in one arena, operations as entries to replay.

While a model's Python runs once, each operation adds an entry and gets `Buf` handles in place of
tensors. A buffer's memory is given out again when the last handle to it is gone, so Python's own
reference counts are the liveness analysis. A barrier goes before an entry only where it touches
what another thread may have touched since the last barrier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from rbee_worker.ops.cpu.runtime.matrix import Part
from rbee_worker.ops.cpu.shared.regions import OWN, Heap, Place, Region

ROWS = "rows"  # how an entry's threads share a place: by rows,
ALL = "all"  # or in a way that nothing can be said of
ALONE = 2048  # columns that each thread computes for itself sooner than it waits for another


def cells(count: int) -> str:
    """By `count` cells of each row (`shares.py`); 1 is by rows."""
    return ROWS if count == 1 else f"cells {count}"


@dataclass(frozen=True)
class Slot:
    """A pointer argument: an offset into the arena, or into each thread's own memory."""

    offset: int
    own: bool = False


@dataclass(eq=False)
class Buf:
    """An activation [rows, width] float32, its rows `stride` floats apart, from column `first`.

    `made`: how threads shared the writing of it. `ready`: the same numbers as a product wants them,
    by form (`kernels/prepare.py`).
    """

    region: Region
    width: int
    stride: int
    first: int = 0
    made: str = ALL
    ready: dict[str, Region] = field(default_factory=dict)

    @property
    def slot(self) -> Slot:
        return Slot(self.region.place.first + 4 * self.first, self.is_own)

    @property
    def is_own(self) -> bool:
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
    """An entry reads or writes a place, its threads sharing it as `share` says."""

    place: Place
    share: str
    writes: bool

    def conflicts(self, other: Touch) -> bool:
        """May two threads meet here?"""
        if not (self.writes or other.writes) or not self.place.overlaps(other.place):
            return False
        alike = self.share == other.share != ALL
        return not (alike and self.place == other.place)


@dataclass(frozen=True)
class Call:
    """A kernel with its arguments; `Slot`s are not addresses yet. ahead, early: see
    `Recorder.call`; own: see `Recorder.alone`."""

    kernel: str
    fields: dict[str, Any]
    barrier: bool
    ahead: Part | None = None
    early: int = 0
    own: bool = False


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
        self._shared, self._own = Heap(), Heap(OWN)
        self._pending: list[Touch] = []

    # ---- memory

    def alone(self, columns: int) -> bool:
        """Whether each thread should do the whole of an entry for itself, in memory of its own.

        A step of one row gives the threads nothing to share in a norm: one would work, the others
        wait for it, and then fetch what it wrote from its cache.
        """
        return self.rows == 1 and columns <= ALONE

    def buffer(self, width: int, *, own: bool = False) -> Buf:
        """A new activation of `width` columns; own: one for each thread."""
        return Buf(self.region(4 * width * self.rows, own=own), width, width)

    def region(self, nbytes: int, *, own: bool = False) -> Region:
        """Memory of at least `nbytes`, all threads' or of each thread."""
        if not own:
            return self._shared.take(nbytes)
        self._own.pass_on()  # nobody else can be at it
        return self._own.take(nbytes)

    @property
    def sizes(self) -> tuple[int, int]:
        """Bytes of the arena, and of each thread's own memory."""
        return self._shared.size, self._own.size

    # ---- entries

    def call(
        self,
        kernel: str,
        touches: Sequence[Touch],
        *,
        ahead: Part | None = None,
        early: int = 0,
        **fields: Any,
    ) -> None:
        """Append a kernel; a `Slot` among the fields becomes an address in the arena.

        ahead: the weights it reads; `early` groups of their rows are shared among the threads
        beforehand. What writes memory of each thread's own, every thread does all of.
        """
        own = any(t.place.space == OWN for t in touches if t.writes)
        assert all(own == (t.place.space == OWN) for t in touches if t.writes)
        met = [t for t in touches if t.place.space != OWN]
        if own:
            met = [replace(t, share=ALL) for t in met]
        barrier = any(t.conflicts(p) for t in met for p in self._pending)
        if barrier:
            self._pending.clear()
            self._shared.pass_on()
        self._pending += met
        self.entries.append(Call(kernel, fields, barrier, ahead, early, own))


def reads(buf: Buf, share: str = ROWS) -> Touch:
    """An entry reads a buffer."""
    return Touch(buf.region.place, share, False)


def writes(buf: Buf, share: str = ROWS) -> Touch:
    """An entry writes a buffer."""
    buf.made = share
    return Touch(buf.region.place, share, True)
