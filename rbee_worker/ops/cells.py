"""Cells: the memory layout of a recurrence's numbers per column and state.

[cells, states, CELL]: the states of `CELL` columns are contiguous, and each is a whole vector on
every instruction set. In the layout [states, width] the states of a column would often lie a power
of two apart and evict each other from the cache. Columns beyond the width (last cell) are zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CELL = 16  # columns


def scan_shape(states: int, columns: int, heads: int = 1) -> tuple[int, int, int]:
    """The shape of a scan's state; no cell has columns of two heads."""
    return heads * -(-columns // CELL), states, CELL


def by_cell(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """[states, width] as [cells, states, CELL]."""
    states, width = values.shape
    cells, _, _ = scan_shape(states, width)
    padded = np.zeros((states, cells * CELL), np.float32)
    padded[:, :width] = values
    return np.ascontiguousarray(padded.reshape(states, cells, CELL).swapaxes(0, 1))
