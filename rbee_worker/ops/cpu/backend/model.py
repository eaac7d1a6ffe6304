"""`CpuModel`: a `Decoder` recorded once, replayed for every step. What the engine sees of it.

The model's Python runs when this object is made, for a whole step, of which `hidden` replays the
beginning and `logits` all, and for `head` alone, and never again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Batch, FixedState, PagedState
from rbee_worker.ops.cpu.backend.ops import CpuOps, check_block_size
from rbee_worker.ops.cpu.runtime.header import Header, Shape
from rbee_worker.ops.cpu.runtime.program import Program, finish
from rbee_worker.ops.cpu.runtime.recorder import Buf, Call, Recorder, Result, Slot
from rbee_worker.ops.cpu.runtime.recording import Recording
from rbee_worker.ops.cpu.shared.regions import Words
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
        self._head = record(decoder, ops, shape, *_head(decoder, shape))
        self._head_header = Header((), (), shape)
        self._record_whole(shape)

    def _record_whole(self, shape: Shape) -> None:
        self.shape = shape
        self._whole = record(self.decoder, self.ops, shape, *_whole(self.decoder, shape))
        self._header = Header(self.groups, self._whole.ropes, shape)
        alone = replace(shape, rows=1, head_rows=1)
        self._one = record(self.decoder, self.ops, alone, *_whole(self.decoder, alone))
        assert self._one.ropes == self._whole.ropes  # the header is for both

    @property
    def fallbacks(self) -> tuple[str, ...]:
        """Operations that `reference` computes."""
        names = (*self._whole.program.fallbacks, *self._head.program.fallbacks)
        return tuple(dict.fromkeys(names))

    def hidden(self, batch: Batch, times: list[Words] | None = None) -> Tensor:
        """N rows -> normalised hidden states float32 [N, dim].

        A step larger than the model is recorded for has it recorded again, which takes a moment.
        """
        n = self._fit(batch)
        header = self._header.write(batch)
        return self._for(n).run(self.team, header, batch, n, times, stage=0)

    def head(self, rows: Tensor, times: list[Words] | None = None) -> Tensor:
        """Hidden states [S, dim] -> logits float32 [S, vocab]."""
        most = self.shape.head_rows
        if rows.shape[0] > most:
            return torch.cat([self.head(part).clone() for part in torch.split(rows, most)])
        n = rows.shape[0]
        self._head.give(rows)
        return self._head.program.run(self.team, self._head_header.rows(n), None, n, times)

    def logits(self, batch: Batch, times: list[Words] | None = None) -> Tensor:
        """N rows, S of them sampled -> logits float32 [S, vocab]: the head of those hidden states,
        bit for bit. Where every row is sampled, as in decoding, the two are one replay."""
        n = self._fit(batch)
        header = self._header.write(batch)
        if n <= self.shape.head_rows and self._header.samples_all:
            return self._for(n).run(self.team, header, batch, n, times)
        hidden = self._for(n).run(self.team, header, batch, n, times, stage=0)
        return self.head(hidden[batch.sample_rows], times)

    def _for(self, n: int) -> Program:
        """The program for n rows."""
        return (self._one if n == 1 else self._whole).program

    def _fit(self, batch: Batch) -> int:
        """The step's rows, for which there is room from now on."""
        n, longest = batch.seq_starts_host[-1], max(batch.kv_lens_host, default=0)
        if n > self.shape.rows or longest > self.shape.longest:
            rows, most = max(n, self.shape.rows), max(longest, self.shape.longest)
            self._record_whole(replace(self.shape, rows=rows, longest=most))
        return n


Piece = Callable[[Tensor, Batch], Tensor]  # part of a model: (what it is given, the batch)
Stage = tuple[Piece, int]  # a piece, for at most so many rows


def _head(decoder: Decoder, shape: Shape) -> tuple[Stage, ...]:
    return ((lambda x, _: decoder.head(x), shape.head_rows),)


def _whole(decoder: Decoder, shape: Shape) -> tuple[Stage, ...]:
    """Hidden states of a step, and their head where there are no more rows than it takes."""
    head, rows = _head(decoder, shape)[0]
    return (lambda _, batch: decoder.hidden(batch), shape.rows), (head, min(rows, shape.rows))


@dataclass(frozen=True)
class Recorded:
    """Pieces of a model as a program. given: where its input goes: slot, width, stride."""

    program: Program
    ropes: list[RopeSpec]
    given: tuple[Slot, int, int]

    def give(self, rows: Tensor) -> None:
        """Its input for the next replay: [N, dim]"""
        slot, width, stride = self.given
        self.program.view(slot, width, stride, rows.shape[0]).copy_(rows)


def kernel_names(decoder: Decoder, ops: CpuOps, shape: Shape) -> list[str]:
    """The kernels that recording `decoder` calls; `ops` may hold no weights (`outline.py`)."""
    recorder = _trace(decoder, ops, shape, _whole(decoder, shape))[0]
    return list(dict.fromkeys(e.kernel for e in recorder.entries if isinstance(e, Call)))


def record(decoder: Decoder, ops: CpuOps, shape: Shape, *stages: Stage) -> Recorded:
    """Run pieces of the model's Python once, each given the result of the one before, and load
    what they call. A later stage takes no more rows than the ones before it."""
    recorder, results, ropes, given = _trace(decoder, ops, shape, stages)
    program = finish(recorder, ops.library, results[-1].buf, results[:-1])
    return Recorded(program, ropes, given)


def _trace(
    decoder: Decoder, ops: CpuOps, shape: Shape, stages: Sequence[Stage]
) -> tuple[Recorder, list[Result], list[RopeSpec], tuple[Slot, int, int]]:
    """Run the model's Python once: what it calls, its results, its ropes, where it takes input."""
    recorder = Recorder(stages[0][1], ops.team.threads)
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
    results: list[Result] = []
    state = given
    for piece, rows in stages:
        assert rows <= recorder.rows
        recorder.rows = rows
        state = cast(Buf, piece(cast(Tensor, state), probe))
        results.append(Result(state, len(recorder.entries)))
    ropes = ops.recording.ropes
    ops.recording = None
    return recorder, results, ropes, place


def _probe(groups: tuple[StateGroup, ...], shape: Shape) -> Batch:
    """One row of one sequence, its state in the sink."""
    zero = torch.zeros(1, dtype=torch.int64)
    states: list[PagedState | FixedState] = []
    for group in groups:
        if isinstance(group.spec, Fixed):
            named = group.spec.shapes
            tensors = {name: torch.zeros(group.layers, 1, *shape) for name, shape in named}
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
