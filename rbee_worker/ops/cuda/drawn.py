"""Drawn tokens on the device: on their way to the host, and kept for the step that is launched
meanwhile."""

from __future__ import annotations

import torch
from torch import Tensor

from rbee_worker.ops.cuda.kernels.tables import take

_MOST = 4096  # rows of one draw


class CudaIds:
    """`Ids`: int32 `device` [S], and a copy on its way to the host."""

    def __init__(self, ids: Tensor) -> None:
        self.device = ids
        self._done: torch.cuda.Event | None = None
        self._copy = ids
        if ids.is_cuda:
            self._copy = torch.empty(ids.shape, dtype=ids.dtype, pin_memory=True)
            self._copy.copy_(ids, non_blocking=True)
            self._done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            self._done.record()

    def host(self) -> list[int]:
        """See `Ids.host`."""
        if self._done is not None:
            self._done.synchronize()
        ids: list[int] = self._copy.tolist()
        return ids


class Drawn:
    """ids: int64 [_MOST]; row i of the last draw drew ids[i]."""

    def __init__(self, device: torch.device) -> None:
        self.ids = torch.zeros(_MOST, dtype=torch.int64, device=device)

    def keep(self, ids: Tensor) -> None:
        """Remember a draw's ids [R], on the device, in the order of the device's work."""
        self.ids[: ids.shape[0]].copy_(ids)

    def into(self, tokens: Tensor, takes: Tensor) -> None:
        """Replace tokens[i] by the draw of row takes[i], unless that is -1; both int64 [N]."""
        take(tokens, takes, self.ids)
