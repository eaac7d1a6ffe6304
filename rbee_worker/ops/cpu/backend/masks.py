"""Rows of logits without the tokens that masks exclude, made by a kernel on the team's threads."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from rbee_worker.ops.cpu.runtime.native import Library
from rbee_worker.ops.cpu.runtime.program import F32
from rbee_worker.ops.cpu.runtime.team import Team
from rbee_worker.ops.cpu.shared import sampling_memory as m
from rbee_worker.ops.cpu.shared.instruction import Instruction, words
from rbee_worker.ops.cpu.shared.regions import Words
from rbee_worker.ops.sampling import Bits

_RECORD = struct.Struct("=3q")


class CpuMasks:
    """Space for the masked copies of a step's rows. Called by the thread that runs the team."""

    def __init__(self, library: Library, team: Team, vocab: int) -> None:
        self._team, self._vocab = team, vocab
        powers = np.left_shift(1, np.arange(16), dtype=np.int32)
        kernel = library["masks.apply"]
        args = kernel.pack(vocab=vocab, blocks=m.blocks(vocab), powers=powers)
        self._entries = words([Instruction(kernel.address, args.address)])
        self._keep = (powers, args)  # what addresses point to
        self._header: Words = np.zeros(2, np.int64)
        self._reserve(0)

    def _reserve(self, rows: int) -> None:
        self._rows = rows
        self._kept = np.zeros((rows, self._vocab), np.float32)
        self._records: Words = np.zeros((rows, m.MASK_BYTES // 8), np.int64)
        self._bytes = memoryview(self._records.reshape(-1)).cast("B")  # type: ignore[arg-type]
        self._header[m.RECORDS // 8] = self._records.ctypes.data

    def apply(self, logits: F32, address: int, masks: Mapping[int, Bits]) -> dict[int, int]:
        """The addresses of the masked copies, by row; valid until the next call.

        address: of `logits` [S, vocab]. masks: see `Sampling.choose`.
        """
        if len(masks) > self._rows:
            self._reserve(len(masks))
        found: dict[int, int] = {}
        to, stride = self._kept.ctypes.data, logits.strides[0]
        for number, (row, bits) in enumerate(masks.items()):
            assert 0 <= row < len(logits)
            assert bits.dtype == np.uint32
            assert bits.flags.c_contiguous
            assert 32 * bits.size >= self._vocab
            place = number * m.MASK_BYTES
            at, picks = address + row * stride, bits.ctypes.data
            _RECORD.pack_into(self._bytes, place, at, picks, to)
            found[row] = to
            to += 4 * self._vocab
        self._header[m.ROWS // 8] = len(masks)
        self._team.run(self._entries, self._header)
        return found
