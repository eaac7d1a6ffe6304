"""Low-rank adapters of the cuda backend: the memory of the loaded ones, and the operation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from rbee_worker.ops.adapted import AdapterMemory, Factors, Placed, Site, Sites, matrices
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.kernels.adapters import WORDS, add_adapters, column_tiles
from rbee_worker.ops.cuda.rows import longest_rows
from rbee_worker.ops.reference.ops import DTYPES, ReferenceOps


class _Table(NamedTuple):
    """Where a site's factors are, by slot; see `kernels.adapters.add_adapters`."""

    records: Tensor
    scales: Tensor
    tiles: Tensor


class CudaAdapters(AdapterMemory):
    """The factors of each slot on the device, in the compute dtype, and the table of every site,
    which captured steps have the address of."""

    def __init__(self, sites: Sites, device: str, dtype: str) -> None:
        self._sites, self._device, self.form = sites, device, DTYPES[dtype]
        self.rank = sites.rank
        self._tables: dict[int, _Table] = {}
        self._factors: dict[int, list[Tensor]] = {}

    @torch.inference_mode()
    def table(self, site: Site) -> _Table:
        """The site's table, the same tensors at every call."""
        if site.number not in self._tables:
            shape = self._sites.slots + 1, len(site.parts)
            tiles = column_tiles([(part.first, part.rows) for part in site.parts])
            self._tables[site.number] = _Table(
                torch.zeros((*shape, WORDS), dtype=torch.int64, device=self._device),
                torch.zeros(shape, dtype=torch.float32, device=self._device),
                torch.tensor(tiles, dtype=torch.int32, device=self._device),
            )
        return self._tables[site.number]

    @torch.inference_mode()
    def put(self, slot: int, placed: Placed) -> None:
        assert 0 < slot <= self._sites.slots
        assert slot not in self._factors
        kept: list[Tensor] = []
        for site in self._sites:
            for number, factors in enumerate(placed.get(site.number, ())):
                if factors is None:
                    continue
                assert factors.rank <= self.rank
                a, b = self._pair(factors, site.cols, site.parts[number].rows)
                kept += [a, b]
                table = self.table(site)
                record = torch.tensor([a.data_ptr(), b.data_ptr(), factors.rank])
                table.records[slot, number] = record.to(self._device)
                table.scales[slot, number] = factors.scale
        self._factors[slot] = kept

    @torch.inference_mode()
    def drop(self, slot: int) -> None:
        for table in self._tables.values():
            table.records[slot] = 0
            table.scales[slot] = 0.0
        del self._factors[slot]

    def _pair(self, factors: Factors, cols: int, rows: int) -> tuple[Tensor, Tensor]:
        """A [rank, cols] and B [rows, rank] on the device."""
        a, b = matrices(factors)
        return self._on_device(a[: factors.rank, :cols], factors), self._on_device(
            b[:rows], factors
        )

    def _on_device(self, array: object, factors: Factors) -> Tensor:
        made = torch.from_numpy(array)
        made = made.view(torch.bfloat16) if factors.form == "bf16" else made
        return made.contiguous().to(self._device, self.form)


class AdaptedOps(ReferenceOps):
    """The part of `DeviceOps` that adds adapters to linear maps."""

    pdl: bool
    fixed: bool
    loaded: CudaAdapters | None = None

    def adapted(self, y: Tensor, x: Tensor, site: Site, batch: Batch) -> Tensor:
        if batch.adapters is None:
            return y
        assert self.loaded is not None
        table = self.loaded.table(site)
        return add_adapters(
            y.contiguous(), x, batch.adapters, batch.seq_starts, *table, rank=self.loaded.rank,
            form=self.loaded.form, longest_rows=longest_rows(batch), fixed=self.fixed, pdl=self.pdl,
        )  # fmt: skip
