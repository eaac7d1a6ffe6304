"""A model's tower on the cpu backend: two programs, replayed for one tile at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rbee_worker.ops.cpu.backend.ops import CpuOps
from rbee_worker.ops.cpu.backend.recorded import Stage, record, trace
from rbee_worker.ops.cpu.runtime.header import Header, Shape
from rbee_worker.ops.cpu.runtime.program import F32
from rbee_worker.ops.cpu.runtime.state import CpuState
from rbee_worker.ops.cpu.shared.paged import SPAN
from rbee_worker.ops.tiles import tile_numbers

if TYPE_CHECKING:
    from rbee_worker.models.tower import Tower

_KV = "f32"  # keys last for one layer: they stay exact


class CpuTower:
    """`see` gives a view that the next call overwrites."""

    def __init__(self, tower: Tower, ops: CpuOps) -> None:
        self._tower, self._team = tower, ops.team
        self._reader = record(tower.groups, tower.patch_columns, ops, _shape(tower), _read(tower))
        self._joiner = record((), tower.columns, ops, _joined_shape(tower), _join(tower))
        numbers, blocks = tile_numbers(tower.places, len(tower.groups), SPAN)
        self._state = CpuState(
            tower.groups, [blocks] * len(tower.groups), 1, block_size=SPAN, dtype=_KV
        )
        assert not self._reader.ropes
        self._header = Header(tower.groups, (), _shape(tower))
        self._batch = self._state.stage(numbers)
        self._rows = Header((), (), _joined_shape(tower))

    def see(self, tile: NDArray[np.uint8]) -> F32:
        """See `Executable.see`."""
        self._reader.give(self._tower.cut(tile))
        header = self._header.write(self._batch)
        read = self._reader.program.run(self._team, header, self._tower.patches)
        self._joiner.give(np.reshape(read, (-1, self._tower.columns)))
        n = self._tower.spec.rows
        return self._joiner.program.run(self._team, self._rows.rows(n), n)


def tower_names(tower: Tower, ops: CpuOps) -> list[str]:
    """The kernels that recording the tower calls."""
    reader = trace(tower.groups, tower.patch_columns, ops, _shape(tower), [_read(tower)])
    joiner = trace((), tower.columns, ops, _joined_shape(tower), [_join(tower)])
    return [call.kernel for recorder, *_ in (reader, joiner) for call in recorder.entries]


def _shape(tower: Tower) -> Shape:
    return Shape(tower.patches, 1, tower.patches, SPAN, _KV)


def _joined_shape(tower: Tower) -> Shape:
    rows = tower.spec.rows
    return Shape(rows, 1, rows, SPAN, _KV)


def _read(tower: Tower) -> Stage:
    return tower.read, tower.patches


def _join(tower: Tower) -> Stage:
    return tower.connector, tower.spec.rows
