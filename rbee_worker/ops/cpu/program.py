"""Recording a program: activations as places in one arena, operations as entries to replay.

While a model's Python runs once, each operation adds an entry and gets `Buf` handles in place of
tensors. A buffer's memory is given out again when the last handle to it is gone, so Python's own
reference counts are the liveness analysis. A barrier goes before an entry only where it touches
what another thread may have touched since the last barrier.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cpu.held import ROWS as ROWS_HELD
from rbee_worker.ops.cpu.instruction import Instruction, words
from rbee_worker.ops.cpu.matrix import Part
from rbee_worker.ops.cpu.native import Args, Library
from rbee_worker.ops.cpu.team import Team, Words

LINE = 64  # bytes; places begin on a cache line of their own

ROWS = "rows"  # how an entry's threads share a place: by rows,
ALL = "all"  # or in a way that nothing can be said of


def cells(count: int) -> str:
    """By `count` cells of each row (`shares.py`); 1 is by rows."""
    return ROWS if count == 1 else f"cells {count}"


@dataclass(frozen=True)
class Place:
    """Bytes first .. last - 1 of the arena, or of something else that `space` names."""

    first: int
    last: int
    space: str = "arena"

    def overlaps(self, other: Place) -> bool:
        """Do the two have a byte in common?"""
        return self.space == other.space and self.first < other.last and other.first < self.last


class Region:
    """Arena memory in use; given back when the object dies."""

    def __init__(self, place: Place, free: Callable[[Place], None]) -> None:
        self.place = place
        weakref.finalize(self, free, place)


@dataclass(frozen=True)
class Slot:
    """A pointer argument: an offset into the arena."""

    offset: int


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
        return Slot(self.region.place.first + 4 * self.first)

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
    """A kernel with its arguments; `Slot`s are not addresses yet."""

    kernel: str
    fields: dict[str, Any]
    barrier: bool
    ahead: Part | None = None


Python = Callable[["Program", Batch | None, int], None]  # (program, batch, rows)


@dataclass(frozen=True)
class Result:
    """What a program's first `entries` entries leave in `buf`."""

    buf: Buf
    entries: int


class Recorder:
    """Collects entries for at most `rows` rows."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.entries: list[Call | Python] = []
        self.fallbacks: list[str] = []
        self._free: list[Place] = []
        self._released: list[Place] = []
        self._size = 0
        self._pending: list[Touch] = []

    # ---- memory

    def buffer(self, width: int) -> Buf:
        """A new activation of `width` columns."""
        return Buf(self.region(4 * width * self.rows), width, width)

    def region(self, nbytes: int) -> Region:
        """Memory of at least `nbytes`, from the first hole that is large enough."""
        nbytes = max(LINE, -(-nbytes // LINE) * LINE)
        for n, hole in enumerate(self._free):
            if hole.last - hole.first >= nbytes:
                place = Place(hole.first, hole.first + nbytes)
                if place.last == hole.last:
                    del self._free[n]
                else:
                    self._free[n] = Place(place.last, hole.last)
                return Region(place, self._release)
        if self._free and self._free[-1].last == self._size:  # the arena grows from its last hole
            start = self._free.pop().first
        else:
            start = self._size
        self._size = start + nbytes
        return Region(Place(start, self._size), self._release)

    def _release(self, place: Place) -> None:
        """Another thread may still touch it: it is used again after the next barrier. Used at
        once, it would need a barrier of its own."""
        self._released.append(place)

    def _pass_on(self) -> None:
        holes = sorted([*self._free, *self._released], key=lambda p: p.first)
        self._released.clear()
        merged: list[Place] = []
        for hole in holes:
            if merged and merged[-1].last == hole.first:
                merged[-1] = Place(merged[-1].first, hole.last)
            else:
                merged.append(hole)
        self._free = merged

    # ---- entries

    def call(
        self, kernel: str, touches: Sequence[Touch], *, ahead: Any = None, **fields: Any
    ) -> None:
        """Append a kernel; a `Slot` among the fields becomes an address in the arena.

        ahead: the `Part` whose weights it reads, shared among the threads by groups of rows.
        """
        barrier = any(t.conflicts(p) for t in touches for p in self._pending)
        if barrier:
            self._pending.clear()
            self._pass_on()
        self._pending += touches
        self.entries.append(Call(kernel, fields, barrier, ahead))

    def python(self, run: Python, name: str) -> None:
        """Append what has no kernel; the program is left and entered again around it."""
        self.entries.append(run)
        if name not in self.fallbacks:
            self.fallbacks.append(name)
        self._pending.clear()
        self._pass_on()

    def finish(self, library: Library, result: Buf, stages: Sequence[Result] = ()) -> Program:
        """Load the kernels, allocate the arena, resolve every address.

        stages: results on the way that a replay may end with.
        """
        library.load([e.kernel for e in self.entries if isinstance(e, Call)])
        results = [*stages, Result(result, len(self.entries))]
        return Program(self, library, results, self._size)


def reads(buf: Buf, share: str = ROWS) -> Touch:
    """An entry reads a buffer."""
    return Touch(buf.region.place, share, False)


def writes(buf: Buf, share: str = ROWS) -> Touch:
    """An entry writes a buffer."""
    buf.made = share
    return Touch(buf.region.place, share, True)


class Program:
    """A recorded program and its memory. `names`: the kernels in order, for profiles."""

    def __init__(
        self, recorder: Recorder, library: Library, results: Sequence[Result], size: int
    ) -> None:
        raw = np.zeros(size + 2 * LINE, np.uint8)  # the system gives pages when they are touched
        start = -raw.ctypes.data % LINE
        self._arena: npt.NDArray[np.uint8] = raw[start : start + size + LINE]
        self._base = int(self._arena.ctypes.data)
        self._floats = torch.from_numpy(self._arena[: (size + LINE) // 4 * 4].view(np.float32))
        self._keep: list[Args] = []
        self.fallbacks = tuple(recorder.fallbacks)
        self.names: list[str] = []
        self.parts: list[Words | Python] = []
        ends: dict[int, tuple[int, int]] = {}  # entries -> (whole parts, entries of the next one)
        calls: list[tuple[Call, Instruction]] = []
        for number, entry in enumerate(recorder.entries):
            ends[number] = len(self.parts), len(calls)
            if not isinstance(entry, Call):
                self._close(calls)
                self.parts.append(entry)
                continue
            kernel = library[entry.kernel]
            values = {
                k: self._base + v.offset if isinstance(v, Slot) else v
                for k, v in entry.fields.items()
            }
            args = kernel.pack(**values)
            self._keep.append(args)
            calls.append((entry, Instruction(kernel.address, args.address, int(entry.barrier))))
            self.names.append(entry.kernel)
        ends[len(recorder.entries)] = len(self.parts), len(calls)
        self._close(calls)
        self._ways = [self._way(result, *ends[result.entries]) for result in results]
        self.nbytes = size

    def _close(self, calls: list[tuple[Call, Instruction]]) -> None:
        """A native part ends. Each entry is told what the next product from it on reads."""
        entries: list[Instruction] = []
        following: dict[str, int] = {}
        for call, entry in reversed(calls):
            if call.ahead is not None:
                data, groups = call.ahead.data, -(-call.ahead.rows // ROWS_HELD)
                following = {
                    "weights": int(data.ctypes.data),
                    "groups": groups,
                    "group_bytes": data.nbytes // groups,
                }
            entries.append(entry._replace(**following))
        if entries:
            self.parts.append(words(entries[::-1]))
            calls.clear()

    def _way(self, result: Result, whole: int, more: int) -> _Way:
        """All before a result: `whole` parts and `more` entries of the one after them."""
        parts = self.parts[: whole + (more > 0)]
        runs: list[tuple[int, int] | Python] = [
            (int(p.ctypes.data), len(p)) if isinstance(p, np.ndarray) else p for p in parts
        ]
        last = runs[-1] if more else None
        if isinstance(last, tuple):
            runs[-1] = last[0], more
        buf = result.buf
        return _Way(runs, (buf.slot, buf.width, buf.stride))

    @property
    def barriers(self) -> int:
        """Barriers that one replay passes, the last ones of its parts not counted."""
        return sum(int(p[:, 2].sum()) for p in self.parts if isinstance(p, np.ndarray))

    def run(
        self, team: Team, header: int, batch: Batch | None, rows: int,
        times: list[Words] | None = None, *, stage: int = -1,
    ) -> Tensor:  # fmt: skip
        """One step, to the end or to a stage: the result's first `rows` rows, a view that the next
        replay overwrites, and the same tensor for as many rows.

        header: its address. times: filled with the clock at each entry of each native part.
        """
        way = self._ways[stage]
        for part in way.runs:
            if not isinstance(part, tuple):
                part(self, batch, rows)
            elif times is None:
                team.replay(*part, header)
            else:
                times.append(np.zeros(part[1] + 1, np.int64))
                team.replay(*part, header, times[-1].ctypes.data)
        view = way.views.get(rows)
        if view is None:
            view = way.views[rows] = self.view(*way.place, rows)
        return view

    def view(self, slot: Slot, width: int, stride: int, rows: int) -> Tensor:
        """[rows, width] of the arena as a tensor."""
        return self._floats.as_strided((rows, width), (stride, 1), slot.offset // 4)


@dataclass(frozen=True)
class _Way:
    """What is run for a result. runs: native entries (address, count), or Python. views: by rows,
    made once: with a step's weights fresh in the caches, making a tensor takes 0.1 ms."""

    runs: list[tuple[int, int] | Python]
    place: tuple[Slot, int, int]
    views: dict[int, Tensor] = field(default_factory=dict)
