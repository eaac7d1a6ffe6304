"""What can be said of the GPU while it computes: its memory, and the least time of a step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from rbee_worker.ops.backend import DeviceMemory


@dataclass(frozen=True)
class CudaGauge:
    """See `ops.backend.DeviceGauge`. weight_bytes: read by a step, a mixture's for one token;
    token_bytes: of the cache, read for each token of a sequence; bytes_s: the memory's rate."""

    weight_bytes: int
    token_bytes: int
    bytes_s: float

    def memory(self) -> DeviceMemory:
        """See `DeviceGauge.memory`."""
        free, total = torch.cuda.mem_get_info()
        return DeviceMemory(total - free, torch.cuda.memory_reserved(), total)

    def floor_s(self, lens: Iterable[int]) -> float:
        """See `DeviceGauge.floor_s`. Windows are not counted, which makes it too long there."""
        return (self.weight_bytes + self.token_bytes * sum(lens)) / self.bytes_s
