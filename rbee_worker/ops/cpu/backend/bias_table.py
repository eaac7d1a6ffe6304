"""`BiasTable` for logits in memory, changed and restored by kernels on the team's threads."""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from functools import partial
from typing import Literal

import numpy as np

from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.program import F32
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import sampling_memory as m
from rbee_worker.ops.cpu.shared.instruction import Instruction, words
from rbee_worker.ops.cpu.shared.regions import Words, address
from rbee_worker.ops.sampling import FIRST_CAPACITY, Edits

_RECORD = struct.Struct("=8q")


class CpuBiasTable:
    """See `ops.sampling.BiasTable`: arrays with the same capacity for every slot."""

    counted: Literal["host"] = "host"

    def __init__(self, library: Library, team: Team, max_seqs: int) -> None:
        self._team, self._max_seqs = team, max_seqs
        self._keep: list[object] = []  # keeps alive what addresses point to
        self._apply, self._undo = (self._program(library, name) for name in ("apply", "undo"))
        self._header: Words = np.zeros(2, np.int64)
        self._capacity = 0
        self._take_rows(max_seqs)
        self._factors = np.zeros((max_seqs, 3), np.float32)
        self._header_at, self._factors_at = address(self._header), address(self._factors)
        self._known: tuple[F32, int, int] | None = None  # the last logits, their address and stride
        self.clear()

    def _program(self, library: Library, name: str) -> tuple[int, int]:
        """The address and length of a program with one kernel."""
        kernel = library[f"edits.{name}"]
        args = kernel.pack()
        entries = words([Instruction(kernel.address, args.address)])
        self._keep += [args, entries]
        return address(entries), 1

    def clear(self) -> None:
        """See `BiasTable.clear`."""
        self._reserve(0)

    def _take_rows(self, rows: int) -> None:
        """Make space for `rows` rows of one step; several of them may use one slot."""
        self._rows = rows
        self._records: Words = np.zeros((rows, m.EDIT_BYTES // 8), np.int64)
        self._bytes = memoryview(self._records).cast("B")  # type: ignore[arg-type]
        self._header[m.RECORDS // 8] = address(self._records)
        self._before = np.zeros((rows, self._capacity), np.float32)
        self._before_at = address(self._before)

    def _reserve(self, capacity: int) -> None:
        self._capacity = capacity
        self._ids = np.zeros((self._max_seqs, capacity), np.int32)
        self._values = np.zeros((self._max_seqs, 4, capacity), np.float32)
        self._ids_at, self._values_at = address(self._ids), address(self._values)
        self._take_rows(self._rows)

    def _grow(self, capacity: int) -> None:
        if capacity <= self._capacity:
            return
        old, ids, values = self._capacity, self._ids, self._values
        self._reserve(max(FIRST_CAPACITY, 1 << (capacity - 1).bit_length()))
        self._ids[:, :old] = ids
        self._values[:, :, :old] = values

    def write(
        self,
        slot: int,
        ids: Sequence[int],
        values: Sequence[Sequence[float]],
        factors: tuple[float, float, float],
    ) -> None:
        """See `BiasTable.write`."""
        self._grow(len(ids))
        self._values[slot] = 0.0
        self._ids[slot, : len(ids)] = ids
        if ids:
            self._values[slot, :, : len(ids)] = np.asarray(values, np.float32).T
        self._factors[slot] = factors

    def add(self, new: Sequence[tuple[int, int, int]]) -> None:
        """See `BiasTable.add`."""
        self._grow(max(place for _, place, _ in new) + 1)
        for slot, place, token in new:
            self._ids[slot, place] = token

    def count(self, changes: Sequence[tuple[int, int, int, int]]) -> None:
        """See `BiasTable.count`."""
        for slot, place, column, difference in changes:
            self._values[slot, column, place] += difference

    def values(self, slot: int, n: int) -> list[list[float]]:
        """See `BiasTable.values`."""
        found: list[list[float]] = self._values[slot, :, :n].T.tolist()
        return found

    def apply(self, logits: F32, edits: Edits) -> Callable[[F32], None]:
        """See `BiasTable.apply`."""
        if self._known is None or self._known[0] is not logits:
            self._known = logits, *address_of(logits, logits.shape[1])
        _, at, stride = self._known
        if len(edits.rows) > self._rows:
            self._take_rows(len(edits.rows))
        place, before, room = 0, self._before_at, self._capacity
        for row, slot, used, bans in zip(*edits[:4], strict=True):
            _RECORD.pack_into(
                self._bytes,
                place,
                at + row * stride,
                self._ids_at + slot * room * 4,
                self._values_at + slot * room * 16,
                room,
                used,
                bans,
                self._factors_at + slot * 12,
                before,
            )
            place += m.EDIT_BYTES
            before += room * 4
        self._header[m.ROWS // 8] = len(edits.rows)
        self._team.replay(*self._apply, self._header_at)
        return partial(self._put_back, logits)

    def _put_back(self, changed: F32, logits: F32) -> None:
        assert logits is changed
        self._team.replay(*self._undo, self._header_at)


def address_of(logits: F32, vocab: int) -> tuple[int, int]:
    """The address of logits [S, vocab] and the bytes between its rows, checked first because
    kernels follow both."""
    assert logits.dtype == np.float32
    assert logits.shape[1] == vocab
    assert logits.strides[1] == 4 or vocab == 1 or not logits.size
    return address(logits), logits.strides[0]
