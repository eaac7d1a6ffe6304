"""Weights on their way to the device: raw bytes first, converted there."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops.cuda.matrix import Raw
from rbee_worker.ops.reference.dequant import dequantize as decoded


class WeightUpload:
    """Copies through pinned memory; a copy goes on while the next bytes are read."""

    PIECE = 64 << 20  # bytes

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned: list[Tensor] = []
        self._events: list[torch.cuda.Event] = []
        self._next = 0

    def pieces(self, part: Packed) -> Iterator[Raw]:
        """A part's rows on the device, as the file has them, some at a time: multiples of 32 rows
        but for the last piece."""
        raw = part.data.reshape(-1, part.data.shape[-1])
        rows = max(32, self.PIECE // raw.shape[1] // 32 * 32)
        for at in range(0, len(raw), rows):
            yield Raw(self._moved(raw[at : at + rows]), part.format)

    def floats(self, part: Packed) -> Tensor:
        """A part's values in float32, on the device."""
        return decoded(part).to(self._device)

    def _moved(self, rows: NDArray[np.uint8]) -> Tensor:
        """These rows of bytes on the device, contiguous."""
        if self._device.type == "cpu":
            return torch.from_numpy(np.array(rows))
        if rows.nbytes > self.PIECE:  # rows that are very long
            return torch.from_numpy(np.array(rows)).to(self._device)
        if not self._pinned:
            self._pinned = [
                torch.empty(self.PIECE, dtype=torch.uint8, pin_memory=True) for _ in range(3)
            ]
            self._events = [torch.cuda.Event() for _ in self._pinned]
        slot = self._next = (self._next + 1) % len(self._pinned)
        self._events[slot].synchronize()
        held = self._pinned[slot][: rows.nbytes].view(rows.shape)
        np.copyto(held.numpy(), rows)
        moved = held.to(self._device, non_blocking=True)
        self._events[slot].record()
        return moved

    def wait(self) -> None:
        """All copies are done; the pinned memory is given back."""
        if self._pinned:
            torch.cuda.synchronize(self._device)
            self._pinned.clear()
            self._events.clear()
