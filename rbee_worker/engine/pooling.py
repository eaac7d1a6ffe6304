"""Vectors of sequences: which rows of a step they are made of, and how.

The mean is a sum in float64, row by row in the order of positions, so it has the same bits however
a sequence is split into steps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbee_worker.types import Pool

F32 = NDArray[np.float32]


@dataclass(slots=True)
class Pooled:
    """What is known of a sequence's vector: the sum of its first `rows` rows, if it is a mean, or
    the only row that counts."""

    rows: int = 0
    total: NDArray[np.float64] | None = None


def needed(pool: Pool, start: int, end: int, length: int) -> tuple[int, int]:
    """Of positions start .. end - 1 of a sequence of `length` tokens, those that its vector is made
    of: (first, end); equal: none."""
    least = _least(pool, length)
    if pool.how == "mean":
        return (max(start, least), end) if least < end else (start, start)
    first = least if pool.how == "cls" else length - 1
    return (first, first + 1) if start <= first < end else (start, start)


def _least(pool: Pool, length: int) -> int:
    """The first position that has a share in the vector."""
    return min(pool.first, length - 1)


def add(known: Pooled, rows: F32, start: int) -> None:
    """More rows of the sequence, the first at position `start`: [n, dim]. A sequence that starts
    again begins with its first needed row."""
    if not len(rows):
        return
    total = rows.astype(np.float64)
    if start and known.total is not None and known.rows == start:
        total = np.concatenate((known.total[None], total))
    # along the first axis numpy adds row after row, whatever their number
    known.total = np.add.reduce(total, axis=0)
    known.rows = start + len(rows)


def vector(pool: Pool, known: Pooled, length: int) -> F32:
    """The rows of a sequence of `length` tokens, pooled: float32 [dim]."""
    assert known.total is not None
    total = known.total
    rows = length - _least(pool, length)
    return (total / rows if pool.how == "mean" else total).astype(np.float32)


def finished(pool: Pool, values: F32) -> bytes:
    """The vector as it leaves the engine: cut and divided by its length, if that is asked for."""
    kept = values[: pool.dimensions or len(values)].astype(np.float64)
    if pool.normalize:
        # as in torch: a vector of zeros stays one
        kept = kept / max(float(np.sqrt(np.square(kept).sum())), 1e-12)
    return kept.astype("<f4").tobytes()
