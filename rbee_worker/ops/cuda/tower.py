"""A model's tower on the cuda backend: two programs, run for one tile at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.ops.cuda.lowering import NO_BATCH, lowered
from rbee_worker.ops.cuda.ops import CudaOps
from rbee_worker.ops.cuda.state import CudaState
from rbee_worker.ops.graph.graph import Value
from rbee_worker.ops.reference.ops import DTYPES
from rbee_worker.ops.tiles import tile_numbers

if TYPE_CHECKING:
    from rbee_worker.models.tower import Tower

_BLOCK = 64  # positions of a block of the tower's state


class CudaTower:
    """Its keys last for one layer, in the compute dtype."""

    def __init__(self, tower: Tower, ops: CudaOps) -> None:
        self._tower, self._ops = tower, ops
        self._reader, _ = lowered(
            ops, tower.groups, lambda rows: tower.read(rows, NO_BATCH), Value(tower.patch_columns)
        )
        self._joiner, _ = lowered(
            ops, (), lambda rows: tower.connector(rows, NO_BATCH), Value(tower.columns)
        )
        numbers, blocks = tile_numbers(tower.places, len(tower.groups), _BLOCK)
        state = CudaState(
            tower.groups,
            [blocks] * len(tower.groups),
            1,
            block_size=_BLOCK,
            dtype=ops.dtype,
            device=ops.device,
            drawn=ops.drawn,
        )
        self._batch = state.stage(numbers)

    @torch.inference_mode()
    def see(self, tile: NDArray[np.uint8]) -> Tensor:
        """See `Executable.see`."""
        device, dtype = self._ops.device, DTYPES[self._ops.dtype]
        patches = torch.from_numpy(self._tower.cut(tile)).to(device, dtype)
        self._ops.now.begin(self._batch)
        (rows,) = self._reader.run(self._batch, patches)
        (joined,) = self._joiner.run(self._batch, rows.reshape(-1, self._tower.columns))
        return joined
