"""A model's layer for further tokens on the cpu backend: programs beside those of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.backend.recorded import Recorded, Stage, record, trace
from rbee_worker.ops.cpu.runtime.header import Header, Shape, longest_of
from rbee_worker.ops.cpu.runtime.program import F32
from rbee_worker.state.specs import StateGroup

if TYPE_CHECKING:
    from rbee_worker.models.mtp import MtpLayer


class CpuMtp:
    """The layer's rows and logits by replay. Results are views that the next call overwrites."""

    def __init__(
        self, layer: MtpLayer, groups: Sequence[StateGroup], ops: CpuOps, shape: Shape
    ) -> None:
        """groups: of the model's state, in which the layer's is; shape: the model's."""
        self._layer, self._groups, self._ops = layer, groups, ops
        self._width = layer.out.weight.cols
        self._head = self._recorded(shape, _head(layer, shape))
        self._rows = Header((), (), shape)
        self._record(shape)

    def hidden(self, rows: F32, batch: Batch) -> F32:
        """See `Executable.mtp_hidden`. A step larger than what was recorded is recorded again."""
        n, longest = batch.seq_starts_host[-1], longest_of(batch)
        if n > self._shape.rows or longest > self._shape.longest:
            most = max(longest, self._shape.longest)
            self._record(replace(self._shape, rows=max(n, self._shape.rows), longest=most))
        recorded = self._single if n == 1 else self._whole
        recorded.give(rows)
        return recorded.program.run(self._ops.team, self._header.write(batch), n)

    def head(self, rows: F32) -> F32:
        """See `Executable.mtp_head`."""
        n, most = len(rows), self._shape.head_rows
        if n > most:
            return np.concatenate([self.head(rows[i : i + most]).copy() for i in range(0, n, most)])
        self._head.give(rows)
        return self._head.program.run(self._ops.team, self._rows.rows(n), n)

    def _record(self, shape: Shape) -> None:
        self._shape = shape
        self._whole = self._recorded(shape, _block(self._layer, shape))
        single = replace(shape, rows=1, head_rows=1)
        self._single = self._recorded(single, _block(self._layer, single))
        assert self._single.ropes == self._whole.ropes  # both use one header
        self._header = Header(self._groups, self._whole.ropes, shape)

    def _recorded(self, shape: Shape, stage: Stage) -> Recorded:
        return record(self._groups, self._width, self._ops, shape, stage)


def mtp_names(
    layer: MtpLayer, groups: Sequence[StateGroup], ops: CpuOps, shape: Shape
) -> list[str]:
    """The kernels that recording the layer calls."""
    width = layer.out.weight.cols
    found = [
        trace(groups, width, ops, shape, [stage])[0]
        for stage in (_block(layer, shape), _head(layer, shape))
    ]
    return [call.kernel for recorder in found for call in recorder.entries]


def _block(layer: MtpLayer, shape: Shape) -> Stage:
    return layer.hidden, shape.rows


def _head(layer: MtpLayer, shape: Shape) -> Stage:
    return (lambda x, _: layer.head(x)), shape.head_rows
