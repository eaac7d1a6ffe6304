"""`CudaStepwise`: a model of the cuda backend in pieces, for comparisons."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.lowering import NO_BATCH, lowered
from rbee_worker.ops.cuda.ops import CudaOps
from rbee_worker.ops.cuda.program import Program
from rbee_worker.ops.cuda.state import CudaState
from rbee_worker.ops.cuda.tower import CudaTower
from rbee_worker.ops.graph.graph import Value
from rbee_worker.ops.reference.ops import DTYPES
from rbee_worker.state.specs import StateGroup

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder


class CudaStepwise:
    """The pieces of a `Decoder`: embedding, each block, final norm, head. See `verify.whole`."""

    def __init__(self, decoder: Decoder) -> None:
        assert isinstance(decoder.ops, CudaOps)
        decoder.ops.weights_done()
        self._decoder, self._ops = decoder, decoder.ops
        self._dtype = DTYPES[decoder.ops.dtype]
        self._dim = decoder.out.weight.cols
        self.groups: tuple[StateGroup, ...] = decoder.groups

    def memory(self, n_blocks: Sequence[int], n_slots: int, *, block_size: int) -> CudaState:
        """Zeroed float32 state."""
        return CudaState(
            self.groups,
            n_blocks,
            n_slots,
            block_size=block_size,
            dtype="f32",
            device=self._ops.device,
            drawn=self._ops.drawn,
        )

    def host(self, x: Tensor) -> NDArray[np.float32]:
        """A float32 copy on the host."""
        copy: NDArray[np.float32] = x.detach().to("cpu", torch.float32, copy=True).numpy()
        return copy

    def put(self, x: NDArray[np.float32]) -> Tensor:
        """Rounded to the compute dtype."""
        return torch.from_numpy(x).to(self._ops.device, self._dtype)

    def embedded(self, batch: Batch) -> Tensor:
        """The input of the first block, [N, dim], for a batch of N rows."""
        return self._run(lambda _: self._decoder.embedded(NO_BATCH), None, batch)

    def layers(self, x: Tensor, batch: Batch) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks, each as a function of the hidden state alone; x [N, dim]: from `embedded`."""
        given = Value(x.shape[1])
        self._ops.record(self.groups, given)
        return self._each(self._decoder.layers(given, NO_BATCH), given, batch)

    def readers(self, batch: Batch) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks that read a source, each as a function of the hidden state alone."""
        given = Value(self._dim)
        pieces = [partial(block, batch=NO_BATCH) for block in self._decoder.readers]
        return self._each(pieces, given, batch)

    def keep(self, x: Tensor, batch: Batch) -> Tensor:
        """The last reader's rows [N, dim] -> those that the decoder looks at, and keeps."""
        piece = partial(self._decoder.keep, batch=NO_BATCH)
        return self._run(piece, Value(x.shape[1]), batch, x)

    def see(self, tile: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The features of a tile of pixels."""
        assert self._decoder.tower is not None
        return self.host(CudaTower(self._decoder.tower, self._ops).see(tile))

    def _each(
        self, pieces: Sequence[Callable[[Any], Any]], given: Value, batch: Batch
    ) -> Sequence[Callable[[Tensor], Tensor]]:
        """Each piece as a program of its own."""
        programs = [lowered(self._ops, self.groups, piece, given)[0] for piece in pieces]

        def layer(program: Program) -> Callable[[Tensor], Tensor]:
            return lambda rows: self._computed(program, batch, rows)

        return [layer(program) for program in programs]

    def normed(self, x: Tensor) -> Tensor:
        """The output of the last block [N, dim] -> the input of the output head [N, dim]."""
        return self._run(self._decoder.norm, Value(x.shape[1]), None, x)

    def head(self, rows: Tensor) -> Tensor:
        """Hidden states [S, dim] -> logits, float32 [S, vocab]."""
        return self._run(self._decoder.head, Value(rows.shape[1]), None, rows)

    def _run(
        self,
        piece: Callable[[Any], Any],
        given: Value | None,
        batch: Batch | None,
        x: Tensor | None = None,
    ) -> Tensor:
        program, _ = lowered(self._ops, self.groups, piece, given)
        return self._computed(program, batch, x)

    @torch.inference_mode()
    def _computed(self, program: Program, batch: Batch | None, x: Tensor | None) -> Tensor:
        if batch is not None:
            self._ops.now.begin(batch)
        return program.run(batch, x)[0]
