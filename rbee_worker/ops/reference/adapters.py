"""Low-rank adapters in plain torch: the reference for `Ops.adapted`."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rbee_worker.ops import Ops
from rbee_worker.ops.adapted import AdapterMemory, Factors, Placed, Site, Sites, matrices
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.reference.experts import product


@dataclass(frozen=True)
class _Part:
    """a [rank, cols] and b [rows, rank], as the adapter's file has them."""

    a: Tensor
    b: Tensor
    scale: float


class TorchAdapters(AdapterMemory):
    """The factors of each slot, on the backend's device, in the form of their file."""

    def __init__(self, sites: Sites, device: str) -> None:
        self._sites, self._device = sites, device
        self._slots: dict[int, dict[tuple[int, int], _Part]] = {}

    def put(self, slot: int, placed: Placed) -> None:
        assert 0 < slot <= self._sites.slots
        assert slot not in self._slots
        found: dict[tuple[int, int], _Part] = {}
        for site in self._sites:
            for number, factors in enumerate(placed.get(site.number, ())):
                if factors is not None:
                    part = self._part(factors, site.cols, site.parts[number].rows)
                    found[site.number, number] = part
        self._slots[slot] = found

    def drop(self, slot: int) -> None:
        del self._slots[slot]

    def part(self, slot: int, site: Site, number: int) -> _Part | None:
        """A slot's factors for one part of a site."""
        return self._slots[slot].get((site.number, number))

    def _part(self, factors: Factors, cols: int, rows: int) -> _Part:
        a, b = (self._tensor(array, factors.form) for array in matrices(factors))
        return _Part(a[: factors.rank, :cols], b[:rows], factors.scale)

    def _tensor(self, array: object, form: str) -> Tensor:
        made = torch.from_numpy(array)
        return (made.view(torch.bfloat16) if form == "bf16" else made).to(self._device)


class AdapterOps(Ops):
    """The part of `ReferenceOps` that adds adapters to linear maps."""

    _adapters: TorchAdapters | None = None

    @property
    def adapters(self) -> TorchAdapters:
        """See `Ops.adapters`."""
        assert self.sites is not None
        if self._adapters is None:
            self._adapters = TorchAdapters(self.sites, self.device)
        return self._adapters

    def adapted(self, y: Tensor, x: Tensor, site: Site, batch: Batch) -> Tensor:
        if batch.adapters is None:
            return y
        for slot in sorted({*batch.adapters.tolist()} - {0}):
            rows = torch.nonzero(batch.adapters == slot).flatten()
            for number, place in enumerate(site.parts):
                part = self.adapters.part(slot, site, number)
                if part is None:
                    continue
                columns = slice(place.first, place.first + place.rows)
                h = product(x[rows].float(), part.a.float())
                more = part.scale * product(h, part.b.float())
                y[rows, columns] = (y[rows, columns].float() + more).to(y.dtype)
        return y
