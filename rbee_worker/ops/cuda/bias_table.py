"""`BiasTable` on the device: entries of every slot, edited and counted by kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops.cuda.kernels.sampling import edits as kernels
from rbee_worker.ops.cuda.upload import upload
from rbee_worker.ops.sampling import FIRST_CAPACITY, Edits


class CudaBiasTable:
    """See `ops.sampling.BiasTable`. No method but `values` waits for the device.

    Entries beyond a slot's own are token 0 with counts 0.
    """

    def __init__(self, max_seqs: int, device: torch.device) -> None:
        self._max_seqs, self._device = max_seqs, device
        self.clear()

    def clear(self) -> None:
        """See `BiasTable.clear`."""
        self._factors = torch.zeros(self._max_seqs, 3, device=self._device)
        self._reserve(0)

    def _reserve(self, capacity: int) -> None:
        shape = (self._max_seqs, capacity)
        self._ids = torch.zeros(shape, dtype=torch.int32, device=self._device)
        self._values = torch.zeros(*shape, 4, dtype=torch.float32, device=self._device)

    def _grow(self, capacity: int) -> None:
        ids, values = self._ids, self._values
        old = ids.shape[1]
        if capacity > old:
            self._reserve(max(FIRST_CAPACITY, 1 << (capacity - 1).bit_length()))
            self._ids[:, :old] = ids
            self._values[:, :old] = values

    def write(
        self,
        slot: int,
        ids: Sequence[int],
        values: Sequence[Sequence[float]],
        factors: tuple[float, float, float],
    ) -> None:
        """See `BiasTable.write`."""
        self._grow(len(ids))
        self._ids[slot].zero_()
        self._values[slot].zero_()
        if ids:
            n = len(ids)
            self._ids[slot, :n] = upload(np.array(ids, np.int32), self._device)
            self._values[slot, :n] = upload(np.array(values, np.float32), self._device)
        self._factors[slot] = upload(np.array(factors, np.float32), self._device)

    def add(self, new: Sequence[tuple[int, int, int]]) -> None:
        """See `BiasTable.add`."""
        self._grow(max(place for _, place, _ in new) + 1)
        self._count([(slot, place, 0, 0, id_) for slot, place, id_ in new])

    def count(self, changes: Sequence[tuple[int, int, int, int]]) -> None:
        """See `BiasTable.count`."""
        self._count([(*change, -1) for change in changes])

    def _count(self, changes: list[tuple[int, int, int, int, int]]) -> None:
        kernels.count(self._ids, self._values, upload(np.array(changes, np.int32), self._device))

    def values(self, slot: int, n: int) -> list[list[float]]:
        """See `BiasTable.values`."""
        found: list[list[float]] = self._values[slot, :n].tolist()
        return found

    def apply(self, logits: Tensor, edits: Edits) -> Callable[[Tensor], None]:
        """See `BiasTable.apply`."""
        columns = (edits.rows, edits.slots, edits.used, edits.bans)
        rows = upload(np.array(columns, np.int32).T.copy(), self._device)
        ids = self._ids
        before = kernels.apply(
            logits,
            ids,
            self._values,
            self._factors,
            rows,
            max(edits.used),
            bias=edits.has_bias,
            repetition=edits.has_repetition,
            output=edits.has_output,
        )
        return lambda logits: kernels.undo(logits, ids, rows, before)
