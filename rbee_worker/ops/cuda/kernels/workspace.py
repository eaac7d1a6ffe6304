"""Memory that launches share: partial results, and counters that are zero between launches."""

from __future__ import annotations

import torch
from torch import Tensor

_FLOATS = 1 << 22
_COUNTERS = 1 << 16


class Workspace:
    """Kernels run one after another, so one buffer serves all. It must not move while CUDA graphs
    that use it exist, so a larger one is added, and the old one is kept."""

    def __init__(self, device: torch.device | str) -> None:
        self.device = torch.device(device)
        self._floats = [torch.empty(_FLOATS, dtype=torch.float32, device=self.device)]
        self._counters = torch.zeros(_COUNTERS, dtype=torch.int32, device=self.device)

    def floats(self, count: int) -> Tensor:
        """At least `count` float32 numbers, with any contents."""
        if count > len(self._floats[-1]):
            size = 1 << (count - 1).bit_length()
            self._floats.append(torch.empty(size, dtype=torch.float32, device=self.device))
        return self._floats[-1]

    def counters(self, count: int) -> Tensor:
        """`count` int32 zeros; a kernel sets them back to zero."""
        assert count <= _COUNTERS
        return self._counters
