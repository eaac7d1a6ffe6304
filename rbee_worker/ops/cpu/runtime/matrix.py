"""Weights in the kernels' form: parts, each in its own stored format, with rows stacked in
order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rbee_worker.checkpoint.decoding import as_floats, grids
from rbee_worker.checkpoint.formats import FORMATS, Packed
from rbee_worker.ops.cpu.runtime.arena import Arena
from rbee_worker.ops.cpu.runtime.native import Args, Library, Native
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared.held import GRID_OF, ROWS, Held, held_as, taken_as
from rbee_worker.ops.cpu.shared.instruction import Instruction, words
from rbee_worker.ops.cpu.shared.regions import Words

Bytes = npt.NDArray[np.uint8]

BATCH_BYTES = 32_000_000  # bytes of the file that are repacked together


@dataclass(frozen=True)
class Part:
    """`rows` rows stored in `held` format; the first is row `first` of the matrix."""

    held: Held
    data: Bytes
    first: int
    rows: int

    @property
    def groups(self) -> int:
        """The number of row groups; the last one is padded."""
        return -(-self.rows // ROWS)


@dataclass(frozen=True)
class Matrix:
    """`Weight.data` on this backend. source_formats: of the tensors it was made from."""

    parts: tuple[Part, ...]
    rows: int
    cols: int
    source_formats: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        return sum(p.data.nbytes for p in self.parts)

    @property
    def formats(self) -> str:
        """The stored formats, in order."""
        return "+".join(dict.fromkeys(p.held.name for p in self.parts))


class Holder:
    """Stores matrices in an arena, repacked for the kernels.

    When `hold` returns, a matrix has its memory; it has its contents after the next `flush`.
    Threads share the bytes of several matrices at once, which halves the time for small ones.
    """

    def __init__(self, library: Library, team: Team, arena: Arena) -> None:
        self._library, self._team, self._arena = library, team, arena
        self._jobs: list[_Job] = []
        self._pending = 0  # bytes of the file that `_jobs` will read

    def hold(self, packed: Sequence[Packed]) -> Matrix:
        """Store matrices [out_i, in] with their rows stacked; formats without a kernel become
        float32. Repacks the pending ones once they are many bytes."""
        formats = tuple(p.format for p in packed)
        if not self._arena.complete:
            packed = [_repackable(p, self._team.threads) for p in packed]
        parts, first = [], 0
        for run in _runs(packed):
            rows = sum(p.shape[0] for p in run)
            held = held_as(run[0].format)
            parts.append(Part(held, self._plan(run, held), first, rows))
            first += rows
        if self._pending >= BATCH_BYTES:
            self.flush()
        return Matrix(tuple(parts), first, packed[0].shape[1], formats)

    def _plan(self, run: Sequence[Packed], held: Held) -> Bytes:
        """Take memory for all matrices of a run, and add the jobs that will fill it."""
        units = -(-run[0].shape[1] // held.columns)
        groups = [-(-p.shape[0] // ROWS) for p in run]
        each = units * held.nbytes
        memory = self._arena.take(sum(groups) * each)
        if self._arena.complete:
            return memory
        kernel, source = self._library[repacker(run[0].format)], taken_as(run[0].format)
        grid = {"grid": grids.digits(GRID_OF[source])} if source in GRID_OF else {}
        at = 0
        for one, count in zip(run, groups, strict=True):
            raw = _whole(one, units * held.columns)
            values = {"raw": raw, "stride": raw.shape[1], "units": units, "out": memory[at:]}
            self._jobs.append(_Job(kernel, {**values, **grid}, count, each))
            self._pending += raw.nbytes
            at += count * each
        return memory

    def done(self) -> None:
        """Repack everything pending; there will be no more."""
        self.flush()
        self._arena.done()

    def flush(self) -> None:
        """Repack everything pending.

        Every thread fills a contiguous piece of memory: if two threads first write the same huge
        page, both clear one, and clearing pages is half of all the work.
        """
        jobs, self._jobs, self._pending = self._jobs, [], 0
        threads = self._team.threads
        total = sum(job.groups * job.each for job in jobs)
        keep: list[Args] = []
        entries: list[Instruction] = []
        begin = 0
        for job in jobs:
            ends = [total * t // threads - begin for t in range(threads + 1)]
            shares = np.array([min(max(e // job.each, 0), job.groups) for e in ends], np.int64)
            shares[-1] = job.groups
            keep.append(job.kernel.pack(**job.values, shares=shares))
            entries.append(Instruction(job.kernel.address, keep[-1].address))
            begin += job.groups * job.each
        header: Words = np.zeros(1, np.int64)
        if entries:
            self._team.run(words(entries), header)


def outline(packed: Sequence[Packed]) -> Matrix:
    """The matrix that a `Holder` would make, without its contents."""
    parts, first = [], 0
    for run in _runs(packed):
        rows = sum(p.shape[0] for p in run)
        held = held_as(run[0].format)
        parts.append(Part(held, np.empty(0, np.uint8), first, rows))
        first += rows
    return _matrix(parts, packed)


def _matrix(parts: Sequence[Part], packed: Sequence[Packed]) -> Matrix:
    rows, cols = sum(p.rows for p in parts), packed[0].shape[1]
    return Matrix(tuple(parts), rows, cols, tuple(p.format for p in packed))


def repacker(format: str) -> str:
    """The kernel that converts a file's format to the stored one."""
    return f"repack.{taken_as(format)}"


def _repackable(packed: Packed, threads: int) -> Packed:
    """`packed` itself, or its values as F32 if no kernel repacks its format."""
    if taken_as(packed.format) == packed.format.lower():
        return packed
    return as_floats(packed, threads=threads)


def _runs(packed: Sequence[Packed]) -> list[list[Packed]]:
    """Groups of adjacent matrices with one format that fill whole row groups: stored as one."""
    runs: list[list[Packed]] = []
    for one in packed:
        last = runs[-1][-1] if runs else None
        if last is not None and _alike(last, one) and last.shape[0] % ROWS == 0:
            runs[-1].append(one)
        else:
            runs.append([one])
    return runs


def _alike(a: Packed, b: Packed) -> bool:
    return taken_as(a.format) == taken_as(b.format)


class _Job(NamedTuple):
    """One matrix to repack. values: the kernel's arguments except `shares`, which says how threads
    share the row groups. each: stored bytes per row group."""

    kernel: Native
    values: dict[str, Any]
    groups: int
    each: int


def _whole(packed: Packed, cols: int) -> Bytes:
    """Raw rows padded to `cols` columns, a multiple of 16; the padding decodes to zeros."""
    rows, form = packed.shape[0], FORMATS[packed.format]
    width = cols // form.block * form.bytes
    raw = packed.data.reshape(rows, -1)
    if rows % ROWS or raw.shape[1] != width:
        padded = np.zeros((-(-rows // ROWS) * ROWS, width), np.uint8)
        padded[:rows, : raw.shape[1]] = raw
        raw = padded
    return np.ascontiguousarray(raw)
