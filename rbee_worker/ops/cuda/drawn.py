"""The tokens of the last draw, kept on the device for the step that is launched meanwhile."""

from __future__ import annotations

import torch
from torch import Tensor

from rbee_worker.ops.cuda.kernels.tables import take

_MOST = 4096  # rows of one draw


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
