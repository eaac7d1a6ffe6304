"""Pieces of a model's Python, recorded as programs that are replayed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Array, Batch, FixedPlaces, PagedPlaces, StepNumbers
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.runtime.header import Shape
from rbee_worker.ops.cpu.runtime.program import F32, Program, finish
from rbee_worker.ops.cpu.runtime.recorder import Buf, Recorder, Result
from rbee_worker.ops.cpu.runtime.recording import Recording, buf_of
from rbee_worker.ops.cpu.runtime.state import CpuState
from rbee_worker.state.specs import Fixed, StateGroup

Piece = Callable[[Array, Batch], Array]  # part of a model: (its input, the batch) -> its output
Stage = tuple[Piece, int]  # a piece, and the most rows it takes


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


def record(
    groups: Sequence[StateGroup], width: int, ops: CpuOps, shape: Shape, *stages: Stage
) -> Recorded:
    """Run pieces of the model's Python once, each with the result of the one before, and load the
    kernels that they call. A later stage takes no more rows than the ones before it. groups: of the
    model's state; width: the columns of the first one's input."""
    ops.weights_done()  # a model that was not built from a checkpoint may have weights pending
    recorder, results, ropes, given = trace(groups, width, ops, shape, stages)
    program = finish(recorder, ops.library, results[-1].buf, results[:-1])
    return Recorded(program, ropes, given)


def trace(
    groups: Sequence[StateGroup], width: int, ops: CpuOps, shape: Shape, stages: Sequence[Stage]
) -> tuple[Recorder, list[Result], list[RopeSpec], Buf]:
    """Run the model's Python once: returns the calls, the results, the ropes and the input."""
    recorder = Recorder(stages[0][1], ops.team.threads)
    probe = _probe(groups, shape)
    recording = Recording(recorder, tuple(groups), shape.kv, shape.block_size, shape.longest)
    given = recorder.buffer(width)
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


def _probe(groups: Sequence[StateGroup], shape: Shape) -> Batch:
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
