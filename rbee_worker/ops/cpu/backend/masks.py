"""Masked rows of logits: which tokens each may draw, and the space for their copies."""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from rbee_worker.ops.cpu.shared import sampling_memory as m
from rbee_worker.ops.cpu.shared.regions import address
from rbee_worker.ops.sampling import Bits

_LOGITS = struct.Struct("=q")
_GIVEN = struct.Struct("=2q")


class CpuMasks:
    """Writes masks into the records of a step's rows, for `masks.apply`."""

    def __init__(self, vocab: int) -> None:
        self._vocab = vocab
        self._kept = np.zeros((0, vocab), np.float32)

    def write(self, records: memoryview, masks: Mapping[int, Bits]) -> None:
        """records: one for each row, whose logits are known. masks: see `Sampling.choose`; they
        must live until the replay is over."""
        if len(masks) > len(self._kept):
            self._kept = np.zeros((len(masks), self._vocab), np.float32)
        to = address(self._kept)
        for row, bits in masks.items():
            assert bits.dtype == np.uint32
            assert bits.flags.c_contiguous
            assert 32 * bits.size >= self._vocab
            place = row * m.RECORD
            (whole,) = _LOGITS.unpack_from(records, place + m.LOGITS)
            _LOGITS.pack_into(records, place + m.LOGITS, to)
            _GIVEN.pack_into(records, place + m.BITS, address(bits), whole)
            to += 4 * self._vocab
