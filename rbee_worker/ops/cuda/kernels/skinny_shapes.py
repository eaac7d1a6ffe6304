"""Tile shapes of `skinny.py`, by type, rows of x and matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton


class SkinnyShape(NamedTuple):
    """A tile's rows of the matrix and columns, programs that share a tile's columns, stages,
    warps. bulk: whole tiles are copied by the bulk copy engine (TMA, from compute capability 9.0
    on). early: the next kernel may start at once, not only after the loop, so that its programs
    take no place from this one's."""

    rows: int
    cols: int
    split: int
    stages: int
    warps: int
    bulk: bool = False
    early: bool = True


# Measured on an H200 (bf16); by (rows of x up to, rows, columns) of the matrix.
_KNOWN = {
    (8, 6144, 4096): SkinnyShape(64, 128, 1, 6, 4, bulk=True),
    (8, 4096, 4096): SkinnyShape(64, 128, 4, 6, 4, early=False),
    (8, 4096, 14336): SkinnyShape(64, 128, 4, 3, 4, bulk=True),
    (8, 14336, 4096): SkinnyShape(128, 128, 1, 3, 8, early=False),
    (8, 128256, 4096): SkinnyShape(64, 256, 1, 3, 4, bulk=True, early=False),
    (64, 6144, 4096): SkinnyShape(64, 128, 1, 6, 4, bulk=True, early=False),
    (64, 4096, 4096): SkinnyShape(64, 128, 1, 6, 4, bulk=True),
    (64, 4096, 14336): SkinnyShape(64, 128, 1, 6, 4, bulk=True),
    (64, 14336, 4096): SkinnyShape(64, 128, 1, 4, 4, bulk=True),
    (64, 128256, 4096): SkinnyShape(128, 64, 1, 6, 8),
}
# The same of 8-bit floats.
_KNOWN_F8 = {
    (8, 6144, 4096): SkinnyShape(64, 256, 4, 5, 4, bulk=True, early=False),
    (8, 4096, 4096): SkinnyShape(64, 256, 4, 3, 4, bulk=True, early=False),
    (8, 4096, 14336): SkinnyShape(64, 256, 4, 3, 4, bulk=True, early=False),
    (8, 14336, 4096): SkinnyShape(128, 256, 1, 3, 8, bulk=True, early=False),
    (8, 128256, 4096): SkinnyShape(64, 512, 1, 2, 4, bulk=True, early=False),
    (64, 6144, 4096): SkinnyShape(64, 128, 1, 8, 4, bulk=True, early=False),
    (64, 4096, 4096): SkinnyShape(64, 128, 2, 8, 4, bulk=True, early=False),
    (64, 4096, 14336): SkinnyShape(64, 128, 2, 8, 4, bulk=True, early=False),
    (64, 14336, 4096): SkinnyShape(64, 128, 1, 4, 4, bulk=True, early=False),
    (64, 128256, 4096): SkinnyShape(128, 128, 1, 4, 8, bulk=True, early=False),
}
# The same of 8-bit integers. More than 8 rows have the general shape, as what was 3 % faster alone
# was 4 % slower in a whole step. A matrix has the same split for any number of rows.
_KNOWN_I8 = {
    (8, 6144, 4096): SkinnyShape(64, 128, 2, 4, 4, bulk=True, early=False),
    (8, 4096, 4096): SkinnyShape(64, 128, 4, 4, 4, bulk=True, early=False),
    (8, 4096, 14336): SkinnyShape(64, 128, 4, 4, 4, bulk=True, early=False),
    (8, 14336, 4096): SkinnyShape(128, 128, 1, 4, 8, bulk=True, early=False),
    (8, 128256, 4096): SkinnyShape(64, 128, 1, 8, 4, bulk=True),
}
_PROGRAMS = 256  # enough to keep every multiprocessor busy


def skinny_shape(m: int, n: int, k: int, gated: bool, dtype: torch.dtype) -> SkinnyShape:
    """The shape for m rows of x and n rows of k columns, all of `dtype`."""
    table = {torch.int8: _KNOWN_I8, torch.float8_e4m3fn: _KNOWN_F8}.get(dtype, _KNOWN)
    known = table.get((8 if m <= 8 else 64, n, k))
    if known is not None:
        return known
    tiles = triton.cdiv(n, 64)
    split = 1 if gated else max(1, min(_PROGRAMS // tiles, triton.cdiv(k, 512)))
    if dtype.itemsize == 1:
        return SkinnyShape(64, 128, split, 4, 4, bulk=True, early=False)
    return SkinnyShape(64, 128 if k % 128 == 0 else 64, split, 3, 4, early=m <= 8)
