"""Cells: how what a recurrence has of each column and state lies in memory.

[cells, states, CELL]: `CELL` columns of every state are one piece of memory, and whole vectors of
every instruction set. In the order [states, width] the states of a column would be a power of two
apart, and push each other out of the cache. Columns of a last cell beyond the width are zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELL = 16  # columns


def scan_shape(states: int, columns: int, heads: int = 1) -> tuple[int, int, int]:
    """Of what a scan keeps; each head's columns are in cells of their own."""
    return heads * -(-columns // CELL), states, CELL


def by_cell(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[states, width] as [cells, states, CELL]."""
    states, width = values.shape
    cells, _, _ = scan_shape(states, width)
    padded = np.zeros((states, cells * CELL), np.float32)
    padded[:, :width] = values
    return np.ascontiguousarray(padded.reshape(states, cells, CELL).swapaxes(0, 1))
