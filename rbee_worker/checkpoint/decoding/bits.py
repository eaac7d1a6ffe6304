"""Extracts fields of a few bits, and float16 scales, from the bytes of blocks."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Signed = npt.NDArray[np.int8]
F32 = npt.NDArray[np.float32]
Fields = npt.NDArray[Any]

EACH = np.arange(8, dtype=np.uint8)  # shifts that give each bit of a byte,
PAIRS = np.array([0, 2, 4, 6], np.uint8)  # each pair of bits,
NIBBLES = np.array([0, 4], np.uint8)  # and each half


def half(blocks: Bytes, at: int) -> F32:
    """The float16 at byte `at` of each block: [n, 1]."""
    return np.ascontiguousarray(blocks[:, at : at + 2]).view(np.float16).astype(np.float32)


def words(blocks: Bytes, first: int, last: int, dtype: type[np.unsignedinteger[Any]]) -> Fields:
    """Bytes first .. last - 1 of each block as numbers of `dtype`: [n, count]."""
    return np.ascontiguousarray(blocks[:, first:last]).view(dtype)


def spread(blocks: Bytes, shifts: Bytes, mask: int) -> Bytes:
    """All fields of the first byte, lowest first, then those of the next byte: [n, fields]."""
    out = (blocks[:, :, None] >> shifts) & np.uint8(mask)
    return out.reshape(len(blocks), -1)


def planes(blocks: Bytes, shifts: Bytes, width: int, mask: int) -> Bytes:
    """The fields at the first shift of `width` bytes, then their fields at the next shift, and so
    on; then the same for the next `width` bytes: [n, fields]."""
    n = len(blocks)
    spans = np.ascontiguousarray(blocks).reshape(n, -1, width)
    out = np.empty((n, spans.shape[1], len(shifts), width), np.uint8)
    for number, shift in enumerate(shifts):
        np.right_shift(spans, int(shift), out=out[:, :, number])
    out &= np.uint8(mask)
    return out.reshape(n, -1)


def scaled(values: Fields, scales: F32, out: F32) -> None:
    """out [n, m] = values [n, m], each group of neighbours times its scale [n, groups]."""
    out[:] = values
    n, groups = scales.shape
    by_group = out.reshape(n, groups, -1)
    by_group *= scales[:, :, None]


def lowered(out: F32, amounts: F32) -> None:
    """Subtract from each group of neighbours in out [n, m] its amount [n, groups]."""
    n, groups = amounts.shape
    by_group = out.reshape(n, groups, -1)
    by_group -= amounts[:, :, None]
