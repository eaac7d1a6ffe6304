"""`ReferenceStepwise`: a model of the reference backend in pieces, for comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.reference.model import ReferenceModel
from rbee_worker.ops.reference.ops import DTYPES
from rbee_worker.ops.reference.state import TorchState
from rbee_worker.state.specs import StateGroup

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder


class ReferenceStepwise:
    """The pieces of a `Decoder`: embedding, each block, final norm, head. See `verify.whole`."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder
        self._device = torch.device(decoder.ops.device)
        self._dtype = DTYPES[decoder.ops.dtype]
        self.groups: tuple[StateGroup, ...] = decoder.groups

    def memory(self, n_blocks: Sequence[int], n_slots: int, *, block_size: int) -> TorchState:
        """Zeroed float32 state."""
        return TorchState(
            self.groups,
            n_blocks,
            n_slots,
            block_size=block_size,
            dtype="f32",
            device=self._device.type,
        )

    def host(self, x: Tensor) -> NDArray[np.float32]:
        """A float32 copy on the host."""
        copy: NDArray[np.float32] = x.detach().to("cpu", torch.float32, copy=True).numpy()
        return copy

    def put(self, x: NDArray[np.float32]) -> Tensor:
        """Rounded to the compute dtype."""
        return torch.from_numpy(x).to(self._device, self._dtype)

    @torch.inference_mode()
    def embedded(self, batch: Batch) -> Tensor:
        """The input of the first block, [N, dim], for a batch of N rows."""
        x: Tensor = self._decoder.embedded(batch)
        return x

    def layers(self, x: Tensor, batch: Batch) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks, each as a function of the hidden state alone; x [N, dim]: from `embedded`."""
        return [partial(self._layer, layer) for layer in self._decoder.layers(x, batch)]

    def readers(self, batch: Batch) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks that read a source, each as a function of the hidden state alone."""
        blocks = self._decoder.readers
        return [partial(self._layer, partial(block, batch=batch)) for block in blocks]

    @torch.inference_mode()
    def keep(self, x: Tensor, batch: Batch) -> Tensor:
        """The last reader's rows [N, dim] -> those that the decoder looks at, and keeps."""
        rows: Tensor = self._decoder.keep(x, batch)
        return rows

    def see(self, tile: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The features of a tile of pixels [side, side, 3]: [rows, dim]."""
        return self.host(ReferenceModel(self._decoder).see(tile))

    @torch.inference_mode()
    def _layer(self, layer: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        return layer(x)

    @torch.inference_mode()
    def normed(self, x: Tensor) -> Tensor:
        """The output of the last block [N, dim] -> the input of the output head [N, dim]."""
        normed: Tensor = self._decoder.norm(x)
        return normed

    @torch.inference_mode()
    def head(self, rows: Tensor) -> Tensor:
        """Hidden states [S, dim] -> logits, float32 [S, vocab]."""
        logits: Tensor = self._decoder.head(rows)
        return logits
