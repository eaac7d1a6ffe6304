"""`CpuModel`: a `Decoder` recorded once, replayed for every step. What the engine sees of it.

The model's Python runs when this object is made, for `hidden` and for `head`, and never again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Batch, FixedState, PagedState
from rbee_worker.ops.cpu import step
from rbee_worker.ops.cpu.backend import CpuOps, check_block_size
from rbee_worker.ops.cpu.header import Header, Shape
from rbee_worker.ops.cpu.program import Buf, Call, Program, Recorder, Slot
from rbee_worker.ops.cpu.recording import Recording
from rbee_worker.ops.cpu.team import Words
from rbee_worker.state.specs import Fixed, StateGroup

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder


class CpuModel:
    """Hidden states and logits by replay. Results are views that the next call overwrites."""

    def __init__(self, decoder: Decoder, ops: CpuOps, shape: Shape) -> None:
        check_block_size(shape.block_size)
        self.groups = decoder.groups
        self.vocab_size = decoder.vocab_size
        self.context = decoder.context
        self.decoder, self.ops, self.team = decoder, ops, ops.team
        self._head = record(decoder, ops, shape, lambda x, _: decoder.head(x), shape.head_rows)
        self._record_hidden(shape)
        self._head_header: Words = np.zeros(step.words(0, 0), np.int64)

    def _record_hidden(self, shape: Shape) -> None:
        self.shape = shape
        decoder = self.decoder
        self._hidden = record(
            decoder, self.ops, shape, lambda _, batch: decoder.hidden(batch), shape.rows
        )
        self._header = Header(self.groups, self._hidden.ropes, shape)

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Operations that `reference` computes."""
        return (*self._hidden.program.fallbacks, *self._head.program.fallbacks)

    def hidden(self, batch: Batch, times: list[Words] | None = None) -> Tensor:
        """N rows -> normalised hidden states float32 [N, dim].

        A step larger than the model is recorded for has it recorded again, which takes a moment.
        """
        n, longest = batch.tokens.shape[0], max(batch.kv_lens_host, default=0)
        if n > self.shape.rows or longest > self.shape.longest:
            rows, most = max(n, self.shape.rows), max(longest, self.shape.longest)
            self._record_hidden(replace(self.shape, rows=rows, longest=most))
        with self._header.of(batch) as words:
            return self._hidden.program.run(self.team, words, batch, n, times)

    def head(self, rows: Tensor, times: list[Words] | None = None) -> Tensor:
        """Hidden states [S, dim] -> logits float32 [S, vocab]."""
        most = self.shape.head_rows
        if rows.shape[0] > most:
            return torch.cat([self.head(part).clone() for part in torch.split(rows, most)])
        n = rows.shape[0]
        self._head_header[step.N // 8] = n
        self._head.give(rows)
        return self._head.program.run(self.team, self._head_header, None, n, times)


Piece = Callable[[Tensor, Batch], Tensor]  # part of a model: (what it is given, the batch)


@dataclass(frozen=True)
class Recorded:
    """A piece of a model as a program. given: where its input goes: slot, width, stride."""

    program: Program
    ropes: list[RopeSpec]
    given: tuple[Slot, int, int]

    def give(self, rows: Tensor) -> None:
        """Its input for the next replay: [N, dim]"""
        slot, width, stride = self.given
        self.program.view(slot, width, stride, rows.shape[0]).copy_(rows)


def kernel_names(decoder: Decoder, ops: CpuOps, shape: Shape) -> list[str]:
    """The kernels that recording `decoder` calls; `ops` may hold no weights (`outline.py`)."""
    pieces: tuple[tuple[Piece, int], ...] = (
        (lambda x, _: decoder.head(x), shape.head_rows),
        (lambda _, batch: decoder.hidden(batch), shape.rows),
    )
    traces = [_trace(decoder, ops, shape, *piece)[0] for piece in pieces]
    entries = [entry for recorder in traces for entry in recorder.entries]
    return list(dict.fromkeys(e.kernel for e in entries if isinstance(e, Call)))


def record(decoder: Decoder, ops: CpuOps, shape: Shape, piece: Piece, rows: int) -> Recorded:
    """Run a piece of the model's Python once, for at most `rows` rows, and load what it calls."""
    recorder, result, ropes, given = _trace(decoder, ops, shape, piece, rows)
    return Recorded(recorder.finish(ops.library, result), ropes, given)


def _trace(
    decoder: Decoder, ops: CpuOps, shape: Shape, piece: Piece, rows: int
) -> tuple[Recorder, Buf, list[RopeSpec], tuple[Slot, int, int]]:
    """Run the model's Python once: what it calls, its result, its ropes, where it takes input."""
    recorder = Recorder(rows)
    probe = _probe(decoder.groups, shape)
    ops.recording = Recording(
        recorder,
        decoder.groups,
        shape.kv,
        shape.block_size,
        shape.longest,
        [],
        probe,
    )
    given = recorder.buffer(decoder.out.weight.cols)
    place = (given.slot, given.width, given.stride)
    result = piece(cast(Tensor, given), probe)
    ropes = ops.recording.ropes
    ops.recording = None
    return recorder, cast(Buf, result), ropes, place


def _probe(groups: tuple[StateGroup, ...], shape: Shape) -> Batch:
    """One row of one sequence, its state in the sink."""
    zero = torch.zeros(1, dtype=torch.int64)
    states: list[PagedState | FixedState] = []
    for group in groups:
        if isinstance(group.spec, Fixed):
            tensors = tuple(torch.zeros(group.layers, 1, *s) for s in group.spec.shapes)
            states.append(FixedState(tensors, zero))
        else:
            spec = group.spec
            k, v = (
                torch.zeros(group.layers, 1, shape.block_size, spec.heads, dim)
                for dim in (spec.k_dim, spec.v_dim)
            )
            states.append(PagedState(k, v, torch.zeros(1, 1, dtype=torch.int32), zero))
    one = torch.ones(1, dtype=torch.int64)
    starts = torch.tensor([0, 1])
    return Batch(zero, zero, starts, one, one, zero, tuple(states), (0, 1), (1,))
