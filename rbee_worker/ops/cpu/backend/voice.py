"""The map of a speaker's embedding on the cpu backend: a program of one row, replayed when a
sequence begins to run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.backend.recorded import Stage, record, trace
from rbee_worker.ops.cpu.runtime.header import Header, Shape
from rbee_worker.ops.cpu.runtime.program import F32
from rbee_worker.ops.cpu.shared.paged import SPAN

if TYPE_CHECKING:
    from rbee_worker.layers.linear import Linear

_ONE_ROW = Shape(1, 1, 1, SPAN, "f32")


class CpuVoice:
    """`row` gives a view that the next call overwrites."""

    def __init__(self, voice: Linear, ops: CpuOps) -> None:
        self._team = ops.team
        self._map = record((), voice.weight.cols, ops, _ONE_ROW, _stage(voice))
        self._header = Header((), (), _ONE_ROW)

    def row(self, embedding: F32) -> F32:
        """See `Executable.voice`."""
        self._map.give(embedding[None])
        return self._map.program.run(self._team, self._header.rows(1), 1)


def voice_names(voice: Linear, ops: CpuOps) -> list[str]:
    """The kernels that recording the map calls."""
    recorder, *_ = trace((), voice.weight.cols, ops, _ONE_ROW, [_stage(voice)])
    return [call.kernel for call in recorder.entries]


def _stage(voice: Linear) -> Stage:
    return voice, 1
