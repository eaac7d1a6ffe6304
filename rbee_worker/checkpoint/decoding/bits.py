"""Fields of a few bits, and float16 scales, out of the bytes of blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Signed = npt.NDArray[np.int8]
F32 = npt.NDArray[np.float32]
Fields = npt.NDArray[Any]

EACH = np.arange(8, dtype=np.uint8)  # shifts to every bit of a byte,
PAIRS = np.array([0, 2, 4, 6], np.uint8)  # to its pairs of bits,
NIBBLES = np.array([0, 4], np.uint8)  # and to its halves


def half(blocks: Bytes, at: int) -> F32:
    """The float16 at byte `at` of each block: [n, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def words(blocks: Bytes, first: int, last: int, dtype: type[np.unsignedinteger[Any]]) -> Fields:
    """Bytes first .. last - 1 of each block as numbers of `dtype`: [n, count]."""
    return np.ascontiguousarray(blocks[:, first:last]).view(dtype)


def spread(blocks: Bytes, shifts: Bytes, mask: int) -> Bytes:
    """The fields of every byte, lowest first: [n, fields]."""
    out = (blocks[:, :, None] >> shifts) & np.uint8(mask)
    return out.reshape(len(blocks), -1)


def planes(blocks: Bytes, shifts: Bytes, width: int, mask: int) -> Bytes:
    """The fields at the first shift of `width` bytes, then those at the next one, and so on; then
    the same of the next `width` bytes: [n, fields]."""
    n = len(blocks)
    spans = np.ascontiguousarray(blocks).reshape(n, -1, width)
    out = np.empty((n, spans.shape[1], len(shifts), width), np.uint8)
    for number, shift in enumerate(shifts):
        np.right_shift(spans, int(shift), out=out[:, :, number])
    out &= np.uint8(mask)
    return out.reshape(n, -1)


def scaled(values: Fields, scales: F32, out: F32) -> None:
    """out [n, m] = values [n, m] times the scale [n, groups] of each group of neighbours."""
    out[:] = values
    n, groups = scales.shape
    by_group = out.reshape(n, groups, -1)
    by_group *= scales[:, :, None]


def lowered(out: F32, amounts: F32) -> None:
    """out [n, m] less the amount [n, groups] of each group of neighbours."""
    n, groups = amounts.shape
    by_group = out.reshape(n, groups, -1)
    by_group -= amounts[:, :, None]
