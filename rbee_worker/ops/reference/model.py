"""`ReferenceModel`: a `Decoder` computed by torch, in the form that the engine runs.

Every method enters torch's inference mode itself, so that its callers do not need torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.guidance import guided
from rbee_worker.ops.reference.ops import DTYPES
from rbee_worker.ops.reference.state import TorchState
from rbee_worker.ops.tiles import tile_numbers
from rbee_worker.state.specs import StateGroup

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder
    from rbee_worker.models.tower import Tower

_BLOCK = 64  # positions of a block of a tower's state


class ReferenceModel:
    """See `ops.executable.Executable`."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder, self.ops = decoder, decoder.ops
        self.groups: tuple[StateGroup, ...] = decoder.groups
        self.vocab_size = decoder.vocab_size
        self.context = decoder.context
        self._tile = None if decoder.tower is None else _tile(decoder.tower)

    @torch.inference_mode()
    def encode(self, batch: Batch) -> Tensor:
        """See `Executable.encode`."""
        rows: Tensor = self.decoder.encode(batch)
        return rows

    @torch.inference_mode()
    def see(self, tile: NDArray[np.uint8]) -> Tensor:
        """See `Executable.see`."""
        tower = self.decoder.tower
        assert tower is not None
        assert self._tile is not None
        patches = torch.from_numpy(tower.cut(tile)).to(self.ops.device, DTYPES[self.ops.dtype])
        rows: Tensor = tower.read(patches, self._tile)
        joined: Tensor = tower.connector(rows.reshape(-1, tower.columns), self._tile)
        return joined

    @torch.inference_mode()
    def voice(self, embedding: NDArray[np.float32]) -> Tensor:
        """See `Executable.voice`."""
        assert self.decoder.voice is not None
        given = torch.from_numpy(embedding)[None].to(self.ops.device, DTYPES[self.ops.dtype])
        row: Tensor = self.ops.linear(given, self.decoder.voice.weight)
        return row

    @torch.inference_mode()
    def hidden(self, batch: Batch) -> Tensor:
        """See `Executable.hidden`."""
        hidden: Tensor = self.decoder.hidden(batch)
        return hidden

    @torch.inference_mode()
    def head(self, rows: Tensor | NDArray[np.float32]) -> Tensor:
        """See `Executable.head`; rows may also be numbers of the host."""
        if not isinstance(rows, Tensor):
            rows = self._device(rows)
        logits: Tensor = self.decoder.head(rows)
        return logits

    def _device(self, rows: NDArray[np.float32]) -> Tensor:
        return torch.from_numpy(rows).to(self.ops.device, DTYPES[self.ops.dtype])

    @torch.inference_mode()
    def mtp_hidden(self, rows: NDArray[np.float32], batch: Batch) -> Tensor:
        """See `Executable.mtp_hidden`."""
        assert self.decoder.mtp is not None
        hidden: Tensor = self.decoder.mtp.hidden(self._device(rows), batch)
        return hidden

    @torch.inference_mode()
    def mtp_head(self, rows: NDArray[np.float32]) -> Tensor:
        """See `Executable.mtp_head`."""
        assert self.decoder.mtp is not None
        logits: Tensor = self.decoder.mtp.head(self._device(rows))
        return logits

    def host(self, rows: Tensor) -> NDArray[np.float32]:
        """See `Executable.host`."""
        numbers: NDArray[np.float32] = rows.detach().to("cpu", torch.float32).numpy()
        return numbers

    @torch.inference_mode()
    def logits(self, batch: Batch) -> Tensor:
        """See `Executable.logits`."""
        return self.head(self.hidden(batch)[batch.sample_rows])

    @torch.inference_mode()
    def guided(self, batch: Batch, scales: Sequence[float]) -> Tensor:
        """See `Executable.guided`."""
        logits: Tensor = guided(self.logits(batch), scales)
        return logits


def _tile(tower: Tower) -> Batch:
    """The batch of every tile that a tower reads."""
    numbers, blocks = tile_numbers(tower.places, len(tower.groups), _BLOCK)
    ops, each = tower.ops, [blocks] * len(tower.groups)
    state = TorchState(tower.groups, each, 1, block_size=_BLOCK, dtype=ops.dtype, device=ops.device)
    return state.stage(numbers)
