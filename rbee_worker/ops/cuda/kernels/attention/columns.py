"""The columns of a head as one or two parts whose widths are powers of two, as Triton needs them.

Padding 576 columns to 1,024 would nearly double the work, so they become 512 and 64; 80 become 64
and 16, and 192 become 128 and 64. Only a part that still has more columns than the head is masked.
"""

from __future__ import annotations

from typing import NamedTuple

SMALLEST = 16  # columns that a product on tensor cores needs


class Columns(NamedTuple):
    """dim columns: `first` from column 0 and `second` (0: none) from there; some may be padding."""

    dim: int
    first: int
    second: int


def power_of_two(number: int) -> int:
    """The lowest power of two that is at least `number`."""
    return 1 << max(0, number - 1).bit_length()


def columns(dim: int) -> Columns:
    """The parts of a head of `dim` columns."""
    assert dim > 0
    whole = max(SMALLEST, power_of_two(dim))
    half = whole // 2
    rest = max(SMALLEST, power_of_two(dim - half)) if dim > half else 0
    if whole == dim or half < SMALLEST or half + rest >= whole:
        return Columns(dim, whole, 0)
    return Columns(dim, half, rest)
