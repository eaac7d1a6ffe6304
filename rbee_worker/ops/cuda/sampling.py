"""Sampling on the device; ids go on to the next step there, and to the host when asked for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rbee_worker.ops.cuda.drawn import Drawn
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling
from rbee_worker.ops.sampling import DrawParams, HostIds, Ids


class DeviceIds:
    """See `ops.sampling.Ids`: a copy to pinned memory is under way."""

    def __init__(self, ids: Tensor) -> None:
        self._held = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
        self._held.copy_(ids, non_blocking=True)
        self._done = torch.cuda.Event()
        self._done.record()

    def host(self) -> list[int]:
        """See `Ids.host`."""
        self._done.synchronize()
        found: list[int] = self._held.tolist()
        return found


class CudaSampling(TorchSampling):
    """See `ops.sampling.Sampling`."""

    def __init__(self, device: torch.device, drawn: Drawn) -> None:
        super().__init__(device)
        self._on_device = device.type == "cuda"
        self._drawn = drawn

    @torch.inference_mode()
    def greedy(self, logits: Tensor) -> Ids:  # type: ignore[override]
        """See `Sampling.greedy`."""
        ids = logits.argmax(dim=1)
        alive = logits.gather(1, ids[:, None])[:, 0] > -torch.inf  # False for NaN
        ids = ids.where(alive, -1)
        self._drawn.keep(ids)
        return DeviceIds(ids) if self._on_device else HostIds(ids.tolist())

    @torch.inference_mode()
    def choose(self, logits: Tensor, params: Sequence[DrawParams | None]) -> HostIds:
        """See `Sampling.choose`."""
        found = super().choose(logits, params)
        self._drawn.keep(torch.tensor(found.ids).to(self._drawn.ids.device))
        return found
