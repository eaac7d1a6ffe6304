"""`Stepwise`: a recorded model replayed piece by piece, which shows the states of every layer.

Each piece is a separate recording of the same Python, so it calls the same kernels with the same
numbers as the whole; states are copied out. Slower than the whole, and only for comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

import numpy as np
from numpy.typing import NDArray

from rbee_worker.ops.batch import Array, Batch, Carry
from rbee_worker.ops.cpu.backend.model import CpuModel
from rbee_worker.ops.cpu.backend.recorded import Piece, Recorded, record
from rbee_worker.ops.cpu.runtime.header import Header
from rbee_worker.ops.cpu.runtime.program import F32
from rbee_worker.ops.cpu.runtime.state import CpuState
from rbee_worker.state.specs import StateGroup


class Stepwise:
    """The pieces of `model`: embedding, each block, final norm, head."""

    def __init__(self, model: CpuModel) -> None:
        self._model = model

    @property
    def groups(self) -> tuple[StateGroup, ...]:
        return self._model.groups

    def memory(self, n_blocks: Sequence[int], n_slots: int, *, block_size: int) -> CpuState:
        """Zeroed state, of the dtype that the model is recorded for."""
        shape = self._model.shape
        assert block_size == shape.block_size
        return CpuState(self.groups, n_blocks, n_slots, block_size=block_size, dtype=shape.kv)

    def host(self, x: F32) -> F32:
        """A copy."""
        return x.copy()

    def put(self, x: F32) -> F32:
        """Unchanged: every piece copies its input."""
        return x

    def embedded(self, batch: Batch) -> F32:
        """The input of the first block, [N, dim], for a batch of N rows."""
        return self._embed(None, batch)

    def layers(self, x: F32, batch: Batch) -> Sequence[Callable[[F32], F32]]:
        """The blocks, each as a function of the hidden state alone; x [N, dim]: from `embedded`."""
        if not self._model.decoder.carried:
            return [partial(step, batch=batch) for step in self._blocks]
        carried = np.zeros((len(x), self._model.decoder.carried), np.float32)
        return [partial(self._carrying, step, carried, batch) for step in self._blocks]

    def readers(self, batch: Batch) -> Sequence[Callable[[F32], F32]]:
        """The blocks that read a source, each as a function of the hidden state alone."""
        blocks = self._model.decoder.readers
        return [partial(self._recorded(block), batch=batch) for block in blocks]

    def keep(self, x: F32, batch: Batch) -> F32:
        """The last reader's rows [N, dim] -> those that the decoder looks at, and keeps."""
        return self._recorded(self._model.decoder.keep)(x, batch)

    def see(self, tile: NDArray[np.uint8]) -> F32:
        """The features of a tile of pixels [side, side, 3]: [rows, dim]."""
        return self._model.see(tile).copy()

    def _carrying(self, step: _Step, carried: F32, batch: Batch, x: F32) -> F32:
        """One block. carried: what the first one hands over, kept here from piece to piece."""
        both = step(np.concatenate([x, carried], axis=1), batch)
        carried[:] = both[:, x.shape[1] :]
        return both[:, : x.shape[1]]

    def normed(self, x: F32) -> F32:
        """The output of the last block [N, dim] -> the input of the output head [N, dim]."""
        return self._norm(x, None)

    def head(self, rows: F32) -> F32:
        """Hidden states [S, dim] -> logits, float32 [S, vocab]."""
        return self._model.head(rows).copy()

    @cached_property
    def _embed(self) -> _Step:
        return self._recorded(lambda _, batch: self._model.decoder.embedded(batch))

    @cached_property
    def _blocks(self) -> list[_Step]:
        return [
            self._recorded(partial(self._block, n), beside=self._model.decoder.carried)
            for n in range(len(self._model.decoder.blocks))
        ]

    @cached_property
    def _norm(self) -> _Step:
        return self._recorded(lambda x, _: self._model.decoder.norm(x))

    def _block(self, number: int, x: Array, batch: Batch) -> Array:
        decoder, ops, carry = self._model.decoder, self._model.ops, Carry()
        if decoder.carried:
            x, value = ops.split(x, (decoder.out.weight.cols, decoder.carried))
            carry.value = value if number else None
        y = decoder.carrying(decoder.embedded(batch), batch, carry)[number](x)
        return ops.concat([y, carry.value]) if decoder.carried else y

    def _recorded(self, piece: Piece, *, beside: int = 0) -> _Step:
        """beside: columns of the input beside the hidden state."""
        model = self._model
        stage = piece, model.shape.rows
        width = model.decoder.width + beside
        return _Step(model, record(model.groups, width, model.ops, model.shape, stage))


class _Step:
    """One piece and its header. Called with an input [N, dim], a batch, or both."""

    def __init__(self, model: CpuModel, recorded: Recorded) -> None:
        self._team, self._recorded = model.team, recorded
        self._header = Header(model.groups, recorded.ropes, model.shape)

    def __call__(self, x: F32 | None, batch: Batch | None) -> F32:
        program = self._recorded.program
        if x is not None:
            self._recorded.give(x)
        if batch is None:
            assert x is not None
            return program.run(self._team, self._header.rows(len(x)), len(x)).copy()
        header = self._header.write(batch)
        return program.run(self._team, header, len(batch.tokens)).copy()
