"""`Stepwise`: a recorded model replayed piece by piece, so that every layer's states can be seen.

Each piece is a recording of its own of the same Python, so it calls the same kernels with the same
numbers as the whole; states come out as copies. Slower than the whole, and for comparing alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial

from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cpu.backend.model import CpuModel, Piece, Recorded, record
from rbee_worker.ops.cpu.runtime.header import Header
from rbee_worker.state.specs import StateGroup


class Stepwise:
    """The pieces of `model`: embedding, each block, final norm, head."""

    def __init__(self, model: CpuModel) -> None:
        self._model = model

    @property
    def groups(self) -> tuple[StateGroup, ...]:
        return self._model.groups

    @property
    def device(self) -> str:
        """Where its tensors are."""
        return self._model.ops.device

    def embedded(self, batch: Batch) -> Tensor:
        """batch of N rows -> what the first block reads [N, dim]"""
        return self._embed(None, batch)

    def layers(self, x: Tensor, batch: Batch) -> Sequence[Callable[[Tensor], Tensor]]:
        """The blocks, each as a function of the state alone. x [N, dim]: what `embedded` gave"""
        return [partial(step, batch=batch) for step in self._blocks]

    def normed(self, x: Tensor) -> Tensor:
        """What the last block made [N, dim] -> what the head reads [N, dim]"""
        return self._norm(x, None)

    def head(self, rows: Tensor) -> Tensor:
        """hidden states [S, dim] -> logits float32 [S, vocab]"""
        return self._model.head(rows).clone()

    @cached_property
    def _embed(self) -> _Step:
        return self._recorded(lambda _, batch: self._model.decoder.embedded(batch))

    @cached_property
    def _blocks(self) -> list[_Step]:
        return [
            self._recorded(partial(self._block, n)) for n in range(len(self._model.decoder.blocks))
        ]

    @cached_property
    def _norm(self) -> _Step:
        return self._recorded(lambda x, _: self._model.decoder.norm(x))

    def _block(self, number: int, x: Tensor, batch: Batch) -> Tensor:
        decoder = self._model.decoder
        return decoder.layers(decoder.embedded(batch), batch)[number](x)

    def _recorded(self, piece: Piece) -> _Step:
        model = self._model
        stage = piece, model.shape.rows
        return _Step(model, record(model.decoder, model.ops, model.shape, stage))


class _Step:
    """One piece and its header. Called with an input [N, dim] and a batch, or one of them."""

    def __init__(self, model: CpuModel, recorded: Recorded) -> None:
        self._team, self._recorded = model.team, recorded
        self._header = Header(model.groups, recorded.ropes, model.shape)

    def __call__(self, x: Tensor | None, batch: Batch | None) -> Tensor:
        program = self._recorded.program
        if x is not None:
            self._recorded.give(x)
        if batch is None:
            assert x is not None
            n = x.shape[0]
            return program.run(self._team, self._header.rows(n), None, n).clone()
        header = self._header.write(batch)
        return program.run(self._team, header, batch, batch.tokens.shape[0]).clone()
