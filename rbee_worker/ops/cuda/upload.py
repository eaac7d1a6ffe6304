"""Weights on their way to the device: raw bytes first, converted there."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops.reference.dequant import dequantize

_FLOATS = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}


class Upload:
    """Copies through pinned memory; a copy goes on while the next bytes are read."""

    PIECE = 64 << 20  # bytes

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned: list[Tensor] = []
        self._events: list[torch.cuda.Event] = []
        self._next = 0

    def matrix(self, part: Packed, out: Tensor) -> None:
        """Write a part's values to `out` [rows, cols] on the device, in out's dtype."""
        if self._device.type == "cpu" or part.format not in _FLOATS:
            out.copy_(dequantize(part))
            return
        dtype = _FLOATS[part.format]
        raw = part.data.reshape(-1)
        flat = out.view(-1) if dtype == out.dtype else None
        width, step = dtype.itemsize, self.PIECE
        for at in range(0, len(raw), step):
            piece = self._moved(raw[at : at + step]).view(dtype)
            first = at // width
            target = out.view(-1)[first : first + len(piece)] if flat is None else flat[
                first : first + len(piece)
            ]
            target.copy_(piece)

    def floats(self, part: Packed) -> Tensor:
        """A part's values in float32, on the device."""
        return dequantize(part).to(self._device)

    def _moved(self, raw: np.ndarray) -> Tensor:  # type: ignore[type-arg]
        """These bytes on the device."""
        if not self._pinned:
            make = lambda: torch.empty(self.PIECE, dtype=torch.uint8, pin_memory=True)  # noqa: E731
            self._pinned = [make() for _ in range(3)]
            self._events = [torch.cuda.Event() for _ in self._pinned]
        slot = self._next = (self._next + 1) % len(self._pinned)
        self._events[slot].synchronize()
        held = self._pinned[slot][: len(raw)]
        held.numpy()[:] = raw
        moved = held.to(self._device, non_blocking=True)
        self._events[slot].record()
        return moved

    def wait(self) -> None:
        """All copies are done; the pinned memory is given back."""
        if self._pinned:
            torch.cuda.synchronize(self._device)
            self._pinned.clear()
            self._events.clear()
