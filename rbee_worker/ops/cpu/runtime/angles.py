"""Cosines and sines of rotary positions for `kernels/rope.py`; the tables grow with the positions.

Angles are float32 products of position and frequency, as in HF; their cosine is computed in float64
and rounded once, so it is correct to half an ulp at any position.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rbee_worker.ops import RopeSpec
from rbee_worker.ops.cpu.shared.regions import Words

F32 = npt.NDArray[np.float32]
FIRST_ROWS = 1024  # positions of the first table


def _rows(positions: npt.NDArray[np.int64], freq: F32, magnitude: float) -> F32:
    """[rows, 2, dim / 2] for positions [rows] and frequencies [dim / 2] or [rows, dim / 2]."""
    angle = (positions.astype(np.float32)[:, None] * freq).astype(np.float64)
    both = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    rows: F32 = both * np.float32(magnitude)
    return rows


class Angles:
    """The table of one `RopeSpec` and, for each step, the row of every token."""

    def __init__(self, spec: RopeSpec) -> None:
        self.spec = spec
        self._size = 0
        self._table: F32 = np.zeros((0, 2, spec.dim // 2), np.float32)

    def at(
        self, positions: Words, seq_starts: Words, rope_lens: Words, longest: int
    ) -> tuple[F32, Words]:
        """(table, index): token n's angles are table[index[n]]. longest: greater than any
        position."""
        spec = self.spec
        if spec.dynamic is not None:
            lens = np.repeat(rope_lens, np.diff(seq_starts))
            table = _rows(positions, self._dynamic(lens), spec.magnitude)
            return table, np.arange(len(positions), dtype=np.int64)
        if longest > self._size:
            self._grow(longest)
        if spec.long_inv_freq is None:
            return self._table, positions
        is_long = np.repeat(rope_lens > spec.switch, np.diff(seq_starts))
        return self._table, positions + self._size * is_long

    def _grow(self, longest: int) -> None:
        size = FIRST_ROWS
        while size < longest:
            size *= 2
        positions = np.arange(size)
        parts = [_rows(positions, np.array(self.spec.inv_freq, np.float32), self.spec.magnitude)]
        if self.spec.long_inv_freq is not None:
            freq = np.array(self.spec.long_inv_freq, np.float32)
            parts.append(_rows(positions, freq, self.spec.long_magnitude))
        self._size, self._table = size, np.concatenate(parts)

    def _dynamic(self, lens: Words) -> F32:
        """NTK frequencies by length [tokens, dim / 2]; see `reference._dynamic`."""
        assert self.spec.dynamic is not None
        theta, factor, original = self.spec.dynamic
        dim = self.spec.dim
        length = np.maximum(lens, original).astype(np.float64)
        base = theta * (factor * length / original - (factor - 1)) ** (dim / (dim - 2))
        exponent = np.arange(0, dim, 2) / dim
        freq: F32 = (base[:, None] ** -exponent).astype(np.float32)
        return freq
