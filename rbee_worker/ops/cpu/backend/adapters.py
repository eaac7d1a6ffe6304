"""Low-rank adapters: what the cpu backend records for them, and the memory of the loaded ones."""

from __future__ import annotations

import struct

import numpy as np

from rbee_worker.ops.adapted import (
    CELL,
    LANES,
    RANKS,
    AdapterMemory,
    Factors,
    Placed,
    Site,
    Sites,
    padded,
)
from rbee_worker.ops.batch import Array, Batch
from rbee_worker.ops.cpu.runtime.recorder import ALL, Touch, reads
from rbee_worker.ops.cpu.runtime.recording import RecordingOps, buf_of
from rbee_worker.ops.cpu.shared import adapter_table as table
from rbee_worker.ops.cpu.shared.regions import Words

assert (RANKS, LANES, CELL) == (table.RANKS, table.LANES, table.CELL)
_F32 = struct.Struct("<f")
_I32 = struct.Struct("<i")


class CpuAdapters(AdapterMemory):
    """The table of every site, which recorded programs have the address of, and the factors."""

    def __init__(self, sites: Sites) -> None:
        self._sites = sites
        self._tables: dict[int, Words] = {}
        self._keep: dict[int, Placed] = {}

    def table(self, site: Site) -> Words:
        """int64 [slots + 1, parts, words of a record], the same array at every call."""
        if site.number not in self._tables:
            shape = (self._sites.slots + 1, len(site.parts), table.PART_BYTES // 8)
            self._tables[site.number] = np.zeros(shape, np.int64)
        return self._tables[site.number]

    def put(self, slot: int, placed: Placed) -> None:
        assert 0 < slot <= self._sites.slots
        assert slot not in self._keep
        self._keep[slot] = placed
        for site in self._sites:
            for part, factors in enumerate(placed.get(site.number, ())):
                if factors is not None:
                    self.table(site)[slot, part] = _record(factors)

    def drop(self, slot: int) -> None:
        for words in self._tables.values():
            words[slot] = 0
        del self._keep[slot]


def _record(factors: Factors) -> list[int]:
    (scale,) = _I32.unpack(_F32.pack(factors.scale))
    form = table.FORMS.index(factors.form)
    return [factors.a.ctypes.data, factors.b.ctypes.data, factors.rank, form, scale]


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
            [reads(source, ALL), Touch(h.region.place, ALL, True)],
            x=source.slot,
            x_stride=source.stride,
            cols=site.cols,
            h=h.slot,
            h_stride=h.stride,
            wide=wide,
            parts=parts,
            entries=entries,
        )
        for number, part in enumerate(site.parts):
            columns = to.columns(part.first, part.rows)
            rec.call(
                "adapt.up",
                [reads(h, ALL), Touch(to.region.place, f"part {site.number}", True)],
                h=h.columns(number * wide, wide).slot,
                h_stride=h.stride,
                y=columns.slot,
                y_stride=to.stride,
                rows=part.rows,
                part=number,
                parts=parts,
                entries=entries,
            )
        to.made = ALL
        return to
