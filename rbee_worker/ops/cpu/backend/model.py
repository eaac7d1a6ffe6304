"""`CpuModel`: a `Decoder` recorded once and replayed for every step, as the engine sees it.

The model's Python runs only when this object is made: once for a whole step, of which `hidden`
replays the beginning and `logits` all, and once for `head` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Array, Batch, FixedPlaces, PagedPlaces, StepNumbers
from rbee_worker.ops.cpu.backend.ops import CpuOps, check_block_size
from rbee_worker.ops.cpu.runtime.header import Header, Shape, longest_of
from rbee_worker.ops.cpu.runtime.program import F32, Program, finish
from rbee_worker.ops.cpu.runtime.recorder import Buf, Recorder, Result
from rbee_worker.ops.cpu.runtime.recording import Recording, buf_of
from rbee_worker.ops.cpu.runtime.state import CpuState
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
        single = replace(shape, rows=1, head_rows=1)
        self._single = record(self.decoder, self.ops, single, *_whole(self.decoder, single))
        assert self._single.ropes == self._whole.ropes  # both use one header
        if self.decoder.start is not None:
            self._encoder = record(self.decoder, self.ops, shape, *_encode(self.decoder, shape))

    def encode(self, batch: Batch, times: list[Words] | None = None) -> F32:
        """See `Executable.encode`."""
        n = self._fit(batch)
        assert not self._encoder.ropes  # it uses the header of the other programs
        return self._encoder.program.run(self.team, self._header.write(batch), n, times)

    def hidden(self, batch: Batch, times: list[Words] | None = None) -> F32:
        """N rows -> normalised hidden states float32 [N, dim].

        If a step is larger than the model was recorded for, it is recorded again, which takes a
        moment.
        """
        n = self._fit(batch)
        header = self._header.write(batch)
        return self._for(n).run(self.team, header, n, times, stage=0)

    def head(self, rows: F32, times: list[Words] | None = None) -> F32:
        """Hidden states [S, dim] -> logits float32 [S, vocab]."""
        n, most = len(rows), self.shape.head_rows
        if n > most:
            logits = np.empty((n, self.decoder.outputs), np.float32)
            for at in range(0, n, most):
                logits[at : at + most] = self.head(rows[at : at + most], times)
            return logits
        self._head.give(rows)
        return self._head.program.run(self.team, self._head_header.rows(n), n, times)

    def logits(self, batch: Batch, times: list[Words] | None = None) -> F32:
        """N rows, S of them sampled -> logits float32 [S, vocab]: the head of those rows' hidden
        states, bit for bit. If every row is sampled, as in decoding, one replay computes both."""
        n = self._fit(batch)
        header = self._header.write(batch)
        if n <= self.shape.head_rows and self._header.samples_all:
            return self._for(n).run(self.team, header, n, times)
        hidden = self._for(n).run(self.team, header, n, times, stage=0)
        return self.head(hidden[batch.sample_rows], times)

    def host(self, rows: F32) -> F32:
        """See `Executable.host`: they are there already."""
        return rows

    def _for(self, n: int) -> Program:
        """The program for n rows."""
        return (self._single if n == 1 else self._whole).program

    def _fit(self, batch: Batch) -> int:
        """The number of the step's rows; from now on there is space for them."""
        n, longest = batch.seq_starts_host[-1], longest_of(batch)
        if n > self.shape.rows or longest > self.shape.longest:
            rows, most = max(n, self.shape.rows), max(longest, self.shape.longest)
            self._record_whole(replace(self.shape, rows=rows, longest=most))
        return n


Piece = Callable[[Array, Batch], Array]  # part of a model: (its input, the batch) -> its output
Stage = tuple[Piece, int]  # a piece, and the most rows it takes


def _head(decoder: Decoder, shape: Shape) -> tuple[Stage, ...]:
    return ((lambda x, _: decoder.head(x), shape.head_rows),)


def _encode(decoder: Decoder, shape: Shape) -> tuple[Stage, ...]:
    """A step that reads sources."""
    return ((lambda _, batch: decoder.encode(batch), shape.rows),)


def _whole(decoder: Decoder, shape: Shape) -> tuple[Stage, ...]:
    """The hidden states of a step, and their head if the rows are not too many for it."""
    head, rows = _head(decoder, shape)[0]
    return (lambda _, batch: decoder.hidden(batch), shape.rows), (head, min(rows, shape.rows))


@dataclass(frozen=True)
class Recorded:
    """Pieces of a model as a program. given: the buffer of the input."""

    program: Program
    ropes: list[RopeSpec]
    given: Buf
    _inputs: dict[int, F32] = field(default_factory=dict)  # views of `given`, by rows

    def give(self, rows: F32) -> None:
        """Set the input of the next replay: [N, dim]"""
        n = len(rows)
        view = self._inputs.get(n)
        if view is None:
            view = self._inputs[n] = self.program.view(self.given, n)
        np.copyto(view, rows)


def kernel_names(decoder: Decoder, ops: CpuOps, shape: Shape) -> list[str]:
    """The kernels that recording `decoder` calls; `ops` may hold no weights (`outline.py`)."""
    entries = _trace(decoder, ops, shape, _whole(decoder, shape))[0].entries
    if decoder.start is not None:
        entries = [*entries, *_trace(decoder, ops, shape, _encode(decoder, shape))[0].entries]
    return list(dict.fromkeys(call.kernel for call in entries))


def record(
    decoder: Decoder, ops: CpuOps, shape: Shape, *stages: Stage, beside: int = 0
) -> Recorded:
    """Run pieces of the model's Python once, each with the result of the one before, and load the
    kernels that they call. A later stage takes no more rows than the ones before it. beside:
    columns of the input beside the hidden state."""
    ops.weights_done()  # a model that was not built from a checkpoint may have weights pending
    recorder, results, ropes, given = _trace(decoder, ops, shape, stages, beside)
    program = finish(recorder, ops.library, results[-1].buf, results[:-1])
    return Recorded(program, ropes, given)


def _trace(
    decoder: Decoder, ops: CpuOps, shape: Shape, stages: Sequence[Stage], beside: int = 0
) -> tuple[Recorder, list[Result], list[RopeSpec], Buf]:
    """Run the model's Python once: returns the calls, the results, the ropes and the input."""
    recorder = Recorder(stages[0][1], ops.team.threads)
    probe = _probe(decoder.groups, shape)
    recording = Recording(recorder, decoder.groups, shape.kv, shape.block_size, shape.longest)
    given = recorder.buffer(decoder.width + beside)
    results: list[Result] = []
    state = given
    ops.recording = recording
    for piece, rows in stages:
        assert rows <= recorder.rows
        recorder.rows = rows
        state = buf_of(piece(state, probe))
        results.append(Result(state, len(recorder.entries)))
    ops.recording = None
    return recorder, results, recording.ropes, given


def _probe(groups: tuple[StateGroup, ...], shape: Shape) -> Batch:
    """A batch to record a model with: one row of one sequence, whose state is in the sinks."""
    zero, one = np.zeros(1, np.int64), np.ones(1, np.int64)
    numbers = StepNumbers(
        tokens=zero,
        positions=zero,
        seq_starts=np.arange(2),
        kv_lens=one,
        rope_lens=one,
        sample_rows=zero,
        places=tuple(
            FixedPlaces(zero)
            if isinstance(group.spec, Fixed)
            else PagedPlaces(np.zeros((1, 1), np.int32), zero)
            for group in groups
        ),
        seq_starts_host=(0, 1),
        kv_lens_host=(1,),
    )
    sinks = [1] * len(groups)
    state = CpuState(groups, sinks, 1, block_size=shape.block_size, dtype=shape.kv)
    return state.stage(numbers)
