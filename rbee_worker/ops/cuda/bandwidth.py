"""How fast the GPU's memory is read."""

from __future__ import annotations

import torch

from rbee_worker.ops.cuda.kernels.read import read
from rbee_worker.ops.cuda.tuning import graph_seconds

_MOST = 1 << 30  # bytes, far more than any cache has


def read_gb_s() -> float:
    """Gigabytes a second of a kernel that only reads, the median of some runs."""
    found = _measured()
    torch.cuda.empty_cache()  # for whoever shares the GPU
    return found


def _measured() -> float:
    free, _ = torch.cuda.mem_get_info()
    numbers = torch.zeros(min(_MOST, free // 2) // 4, dtype=torch.float32, device="cuda")
    return numbers.nbytes / graph_seconds(lambda: read(numbers)) / 1e9
