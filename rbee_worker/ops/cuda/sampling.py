"""Sampling on the device."""

from __future__ import annotations

import torch

from rbee_worker.ops.cuda.drawn import Drawn
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling


class CudaSampling(TorchSampling):
    """See `ops.sampling.Sampling`."""

    def __init__(self, device: torch.device, drawn: Drawn) -> None:
        super().__init__(device)
        self._drawn = drawn
