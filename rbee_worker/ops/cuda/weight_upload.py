"""Weights on their way to the device: raw bytes first, converted there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops.cuda.matrix import Raw
from rbee_worker.ops.reference.dequant import dequantize as decoded


class WeightUpload:
    """Copies through pinned memory; a copy goes on while threads read the next bytes."""

    PIECE = 64 << 20  # bytes
    LEAST = 1 << 20  # bytes from which on threads share a piece
    THREADS = min(8, os.cpu_count() or 1)  # one reads 2 to 5 GB/s of a file in the page cache

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._pinned: list[Tensor] = []
        self._events: list[torch.cuda.Event] = []
        self._next = 0
        self._threads: ThreadPoolExecutor | None = None

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
            self._events = [
                torch.cuda.Event()  # type: ignore[no-untyped-call]
                for _ in self._pinned
            ]
        slot = self._next = (self._next + 1) % len(self._pinned)
        self._events[slot].synchronize()
        held = self._pinned[slot][: rows.nbytes].view(rows.shape)
        self._read(rows, held.numpy())
        moved = held.to(self._device, non_blocking=True)
        self._events[slot].record()
        return moved

    def _read(self, rows: NDArray[np.uint8], out: NDArray[np.uint8]) -> None:
        """Copy rows to `out`; what is not in memory yet is read from the file."""
        if rows.nbytes < self.LEAST or len(rows) < self.THREADS:
            np.copyto(out, rows)
            return
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.THREADS, "weights")
        each = -(-len(rows) // self.THREADS)
        parts = [slice(at, at + each) for at in range(0, len(rows), each)]
        for _ in self._threads.map(lambda part: np.copyto(out[part], rows[part]), parts):
            pass  # an exception of a thread is raised here

    def wait(self) -> None:
        """All copies are done; the pinned memory and the threads are given back."""
        if self._threads is not None:
            self._threads.shutdown()
            self._threads = None
        if self._pinned:
            torch.cuda.synchronize(self._device)
            self._pinned.clear()
            self._events.clear()
