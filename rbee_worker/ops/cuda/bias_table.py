"""`CountingTable` on the device: entries of every slot, edited and counted by kernels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops.cuda.drawn import CudaIds
from rbee_worker.ops.cuda.kernels.sampling import edits as kernels
from rbee_worker.ops.cuda.upload import upload
from rbee_worker.ops.sampling import FIRST_CAPACITY, FREQUENCY, PRESENCE, REPETITION, Edits, Ids

_OUTPUT, _WINDOW = 1, 2  # what a slot counts; 3: both


class CudaBiasTable:
    """See `ops.sampling.CountingTable`. No method but `values` waits for the device.

    `_used` has the number of a slot's entries: the host knows only how many there may be, because
    a token that was just drawn may be new or not. Entries beyond these are zeros.
    """

    counted: Literal["device"] = "device"

    def __init__(self, max_seqs: int, device: torch.device) -> None:
        self._max_seqs, self._device = max_seqs, device
        self.clear()

    def clear(self) -> None:
        """See `BiasEntries.clear`."""
        self._factors = torch.zeros(self._max_seqs, 3, device=self._device)
        self._used = self._ints(self._max_seqs)
        self._exempt = self._ints(self._max_seqs, 1) - 1
        self._counts = [0] * self._max_seqs  # what each slot counts
        self._last: tuple[Edits, Tensor] | None = None
        self._reserve(0)

    def _ints(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.int32, device=self._device)

    def _reserve(self, capacity: int) -> None:
        shape = (self._max_seqs, capacity)
        self._ids = self._ints(*shape)
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
        """See `BiasEntries.write`."""
        n = len(ids)
        self._grow(n)
        self._ids[slot].zero_()
        self._values[slot].zero_()
        self._used[slot].fill_(n)
        if ids:
            self._ids[slot, :n] = upload(np.array(ids, np.int32), self._device)
            self._values[slot, :n] = upload(np.array(values, np.float32), self._device)
        self._factors[slot] = upload(np.array(factors, np.float32), self._device)
        output = factors[PRESENCE] != 0.0 or factors[FREQUENCY] != 0.0
        self._counts[slot] = _OUTPUT * output + _WINDOW * (factors[REPETITION] != 1.0)

    def exempt(self, slot: int, ids: Sequence[int]) -> None:
        """See `CountingTable.exempt`."""
        room = self._exempt.shape[1]
        if len(ids) > room:
            wider = self._ints(self._max_seqs, 1 << (len(ids) - 1).bit_length()) - 1
            wider[:, :room] = self._exempt
            self._exempt = wider
        self._exempt[slot].fill_(-1)
        if ids:
            self._exempt[slot, : len(ids)] = upload(np.array(ids, np.int32), self._device)

    def values(self, slot: int, n: int) -> list[list[float]]:
        """See `BiasEntries.values`."""
        found: list[list[float]] = self._values[slot, :n].tolist()
        return found

    def apply(self, logits: Tensor, edits: Edits) -> Callable[[Tensor], None]:
        """See `BiasEntries.apply`."""
        rows, most = self._rows(edits), max(edits.used)
        ids, used = self._ids, self._used
        before = kernels.apply(
            logits,
            ids,
            self._values,
            used,
            self._factors,
            rows,
            most,
            bias=edits.has_bias,
            repetition=edits.has_repetition,
            output=edits.has_output,
        )
        return lambda logits: kernels.undo(logits, ids, used, rows, before)

    def push(self, edits: Edits, ids: Ids) -> None:
        """See `CountingTable.push`."""
        assert isinstance(ids, CudaIds)
        if edits.has_repetition or edits.has_output:
            most = max(edits.used) + 1
            self._grow(most)
            kernels.push(
                self._ids,
                self._values,
                self._used,
                self._exempt,
                self._rows(edits),
                ids.device,
                most,
            )

    def _rows(self, edits: Edits) -> Tensor:
        """The edits as the kernels need them, which `apply` and `push` share."""
        if self._last is None or self._last[0] is not edits:
            counts = [self._counts[slot] for slot in edits.slots]
            leaves = edits.leaves or [-1] * len(counts)
            columns = (edits.rows, edits.slots, edits.bans, counts, leaves)
            rows = upload(np.array(columns, np.int32).T.copy(), self._device)
            self._last = edits, rows
        return self._last[1]
