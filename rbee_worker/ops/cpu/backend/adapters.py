"""Low-rank adapters: what the cpu backend records for them, and the memory of the loaded ones."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rbee_worker.ops.adapted import (
    CELL,
    LANES,
    RANKS,
    AdapterMemory,
    Factors,
    Placed,
    Site,
    SitePart,
    Sites,
    padded,
)
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cpu.runtime.arena import LINE, Arena
from rbee_worker.ops.cpu.runtime.recorder import ALL, reads, writes
from rbee_worker.ops.cpu.runtime.recording import RecordingOps, buf_of
from rbee_worker.ops.cpu.shared import adapter_table as table
from rbee_worker.ops.cpu.shared.regions import Words, address

assert (RANKS, LANES, CELL) == (table.RANKS, table.LANES, table.CELL)
_F32 = struct.Struct("<f")
_I32 = struct.Struct("<i")


class CpuAdapters(AdapterMemory):
    """The table of every site, which recorded programs have the address of, and the factors.

    An adapter's factors lie one after another in the order in which a step reads them: for each
    site the A of its parts, then their B. So the processor's prefetching goes from one to the next.
    """

    def __init__(self, sites: Sites) -> None:
        self._sites = sites
        self._tables: dict[int, Words] = {}
        self._arenas: dict[int, Arena] = {}

    def table(self, site: Site) -> Words:
        """int64 [slots + 1, parts, words of a record], the same array at every call."""
        if site.number not in self._tables:
            shape = (self._sites.slots + 1, len(site.parts), table.PART_BYTES // 8)
            self._tables[site.number] = np.zeros(shape, np.int64)
        return self._tables[site.number]

    def put(self, slot: int, placed: Placed) -> None:
        assert 0 < slot <= self._sites.slots
        assert slot not in self._arenas
        all_of_it = [f for parts in placed.values() for f in parts if f is not None]
        arena = Arena(sum(padded(end.nbytes, LINE) for f in all_of_it for end in (f.a, f.b)))
        self._arenas[slot] = arena
        for site in self._sites:
            parts = placed.get(site.number, ())
            a = [0 if f is None else _kept(arena, f.a) for f in parts]
            b = [0 if f is None else _kept(arena, f.b) for f in parts]
            for number, factors in enumerate(parts):
                if factors is not None:
                    record = _record(factors, a[number], b[number], site.parts[number])
                    self.table(site)[slot, number] = record

    def drop(self, slot: int) -> None:
        for words in self._tables.values():
            words[slot] = 0
        del self._arenas[slot]


def _kept(arena: Arena, numbers: NDArray[Any]) -> int:
    """The address of a copy of `numbers` in the arena."""
    place = arena.take(numbers.nbytes)
    place[:] = numbers.reshape(-1).view(np.uint8)
    return address(place)


def _record(factors: Factors, a: int, b: int, part: SitePart) -> list[int]:
    (scale,) = _I32.unpack(_F32.pack(factors.scale))
    form = table.FORMS.index(factors.form)
    return [a, b, factors.rank, form, scale, part.first, part.rows, 0]


class AdapterOps(RecordingOps):
    """The part of `CpuOps` that adds adapters to linear maps."""

    _adapters: CpuAdapters | None = None

    @property
    def adapters(self) -> CpuAdapters:
        """See `Ops.adapters`."""
        assert self.sites is not None
        if self._adapters is None:
            self._adapters = CpuAdapters(self.sites)
        return self._adapters

    def adapted(self, y: Array, x: Array, site: Site, batch: Batch) -> Array:
        assert self.sites is not None
        rec, source, parts = self.now.recorder, buf_of(x, site.cols), len(site.parts)
        to = buf_of(y, sum(part.rows for part in site.parts))
        wide, entries = padded(self.sites.rank, RANKS), self.adapters.table(site)
        h = rec.buffer(wide * parts)
        rec.call(
            "adapt.down",
            [reads(source, ALL), writes(h, ALL)],
            x=source.slot,
            x_stride=source.stride,
            cols=site.cols,
            h=h.slot,
            h_stride=h.stride,
            wide=wide,
            parts=parts,
            entries=entries,
        )
        rec.call(
            "adapt.up",
            [reads(h, ALL), writes(to, ALL)],
            h=h.slot,
            h_stride=h.stride,
            y=to.slot,
            y_stride=to.stride,
            wide=wide,
            parts=parts,
            entries=entries,
        )
        return to
