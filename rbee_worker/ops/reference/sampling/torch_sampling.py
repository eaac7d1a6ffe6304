"""`Sampling` in torch, for backends that have none of their own; any device."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops.reference.sampling.filters import draw
from rbee_worker.ops.reference.sampling.logprobs import score
from rbee_worker.ops.reference.sampling.rows import argmax
from rbee_worker.ops.sampling import (
    FIRST_CAPACITY,
    FREQUENCY,
    PRESENCE,
    REPETITION,
    Bits,
    DrawColumns,
    DrawParams,
    Edits,
    HostIds,
)
from rbee_worker.types import TokenLogprob


class TorchSampling:
    """See `ops.sampling.Sampling`. In this module each method enters inference mode itself, so that
    state made in inference mode is also written in it."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    @torch.inference_mode()
    def greedy(self, logits: Tensor) -> HostIds:
        """See `Sampling.greedy`."""
        return HostIds(self._greedy(logits))

    def _greedy(self, logits: Tensor) -> list[int]:
        assert logits.dtype == torch.float32
        ids = argmax(logits)
        alive = logits.gather(1, ids[:, None])[:, 0] > -torch.inf  # False for NaN
        found: list[int] = ids.where(alive, -1).tolist()
        return found

    @torch.inference_mode()
    def choose(
        self,
        logits: Tensor,
        params: Sequence[DrawParams | None],
        masks: Mapping[int, Bits] | None = None,
    ) -> HostIds:
        """See `Sampling.choose`."""
        assert logits.dtype == torch.float32
        if masks:
            logits = _masked(logits, masks)
        ids = [-1] * len(params)
        hot = {row: one for row, one in enumerate(params) if one is not None}
        cold = [row for row, one in enumerate(params) if one is None]
        if hot:
            some = logits[list(hot)] if cold else logits
            drawn: list[int] = draw(some, DrawColumns.of(list(hot.values()))).tolist()
            for row, token in zip(hot, drawn, strict=True):
                ids[row] = token
        if cold:
            for row, token in zip(cold, self._greedy(logits[cold]), strict=True):
                ids[row] = token
        return HostIds(ids)

    @torch.inference_mode()
    def score(
        self,
        logits: Tensor,
        ids: Sequence[int],
        tops: Sequence[int],
        rows: Sequence[int] | None = None,
    ) -> list[TokenLogprob]:
        """See `Sampling.score`."""
        some = rows is not None and len(rows) < logits.shape[0]
        return score(logits[rows] if some else logits, ids, tops)

    def bias_table(self, max_seqs: int) -> TorchBiasTable:
        """See `Sampling.bias_table`."""
        return TorchBiasTable(max_seqs, self._device)


def _masked(logits: Tensor, masks: Mapping[int, Bits]) -> Tensor:
    """A copy of logits [S, V] with -inf for every token that its row's mask excludes."""
    vocab = logits.shape[1]
    bits = np.stack([mask.view(np.uint8) for mask in masks.values()])
    allowed = np.unpackbits(bits, axis=1, count=vocab, bitorder="little").view(np.bool_)
    rows = torch.tensor(list(masks), device=logits.device)
    kept = logits.clone()
    excluded = torch.from_numpy(~allowed).to(logits.device)
    kept[rows] = kept[rows].masked_fill(excluded, -torch.inf)
    return kept


class TorchBiasTable:
    """See `ops.sampling.BiasTable`: tensors on a device, with the same capacity for every slot."""

    counted: Literal["host"] = "host"

    def __init__(self, max_seqs: int, device: torch.device) -> None:
        self._max_seqs, self._device = max_seqs, device
        self.clear()

    @torch.inference_mode()
    def clear(self) -> None:
        """See `BiasTable.clear`."""
        self._reserve(0)

    def _reserve(self, capacity: int) -> None:
        """Make space for `capacity` entries per slot; an unused entry is token 0 with counts 0."""
        shape = (self._max_seqs, capacity)
        self._capacity = capacity
        self._ids = torch.zeros(shape, dtype=torch.int64, device=self._device)
        self._values = torch.zeros(*shape, 4, dtype=torch.float32, device=self._device)
        if capacity == 0:
            self._factors = torch.zeros(self._max_seqs, 3, device=self._device)

    def _grow(self, capacity: int) -> None:
        if capacity <= self._capacity:
            return
        old, ids, values = self._capacity, self._ids, self._values
        self._reserve(max(FIRST_CAPACITY, 1 << (capacity - 1).bit_length()))
        self._ids[:, :old] = ids
        self._values[:, :old] = values

    @torch.inference_mode()
    def write(
        self,
        slot: int,
        ids: Sequence[int],
        values: Sequence[Sequence[float]],
        factors: tuple[float, float, float],
    ) -> None:
        """See `BiasTable.write`."""
        self._grow(len(ids))
        self._ids[slot] = 0
        self._values[slot] = 0.0
        if ids:
            self._ids[slot, : len(ids)] = torch.tensor(ids, device=self._device)
            self._values[slot, : len(ids)] = torch.tensor(values, device=self._device)
        self._factors[slot] = torch.tensor(factors, device=self._device)

    @torch.inference_mode()
    def add(self, new: Sequence[tuple[int, int, int]]) -> None:
        """See `BiasTable.add`."""
        self._grow(max(place for _, place, _ in new) + 1)
        slot, place, id_ = torch.tensor(new, device=self._device).unbind(dim=1)
        self._ids[slot, place] = id_

    @torch.inference_mode()
    def count(self, changes: Sequence[tuple[int, int, int, int]]) -> None:
        """See `BiasTable.count`."""
        slot, place, column, change = torch.tensor(changes, device=self._device).unbind(dim=1)
        at = (slot, place, column)
        self._values.index_put_(at, change.to(torch.float32), accumulate=True)

    def values(self, slot: int, n: int) -> list[list[float]]:
        """See `BiasTable.values`."""
        found: list[list[float]] = self._values[slot, :n].tolist()
        return found

    @torch.inference_mode()
    def apply(self, logits: Tensor, edits: Edits) -> Callable[[Tensor], None]:
        """See `BiasTable.apply`."""
        index = torch.tensor([edits.rows, edits.slots, edits.used], device=self._device)
        where, slot, count = index[:, :, None]  # each [A, 1]
        place = torch.arange(max(edits.used), device=self._device)
        if min(edits.used) < max(edits.used):
            # Beyond its last entry a row repeats it: equal writes to one place are harmless.
            place = place.minimum((count - 1).clamp(min=0))
        ids = self._ids[slot, place]  # [A, n]
        bias, banned, window, output = self._values[slot, place].unbind(dim=2)
        factor = self._factors[slot[:, 0]].T[:, :, None]  # [3, A, 1]
        before = logits[where, ids]
        z = before
        if edits.has_bias:
            z = torch.where(bias != 0, z + bias, z)
        if edits.has_repetition:
            scaled = torch.where(z > 0, z / factor[REPETITION], z * factor[REPETITION])
            z = torch.where(window > 0, scaled, z)
        if edits.has_output:
            counted = z - factor[PRESENCE] - output * factor[FREQUENCY]
            z = torch.where(output > 0, counted, z)
        if any(edits.bans):
            bans = torch.tensor(edits.bans, device=self._device)[:, None]
            z = z.masked_fill((banned > 0) & bans, -torch.inf)
        logits[where, ids] = z

        @torch.inference_mode()
        def undo(logits: Tensor) -> None:
            logits[where, ids] = before

        return undo
