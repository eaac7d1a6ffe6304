"""The shape of a program of `product.py`, by format and matrix."""

from __future__ import annotations

from typing import NamedTuple

from rbee_worker.ops.cuda.kernels.launch import power_of_two


class ProductShape(NamedTuple):
    """rows of the matrix (8, 16 or 32), chunks of 64 columns at a time, whether the next chunks are
    loaded before the present ones are used, warps (a thread has four rows of a chunk), registers of
    a thread at most (0: as many as the compiler likes)."""

    rows: int
    chunks: int
    double: bool
    warps: int
    registers: int = 0


class _Shapes(NamedTuple):
    """For gates and ups; for at least 32,768 rows; for rows of more than 8,192 columns; else."""

    gated: ProductShape
    many: ProductShape
    long: ProductShape
    other: ProductShape


# Measured on an H200, whole decode steps at batch 1.
_Q4_K = _Shapes(
    ProductShape(32, 32, False, 8, 128),  # registers: so that two programs fit a multiprocessor
    ProductShape(32, 64, False, 16),
    ProductShape(32, 64, True, 16),
    ProductShape(32, 64, False, 16),
)
_Q8_0 = _Shapes(
    ProductShape(32, 16, True, 4),
    ProductShape(32, 32, True, 8),
    ProductShape(32, 64, True, 16),
    ProductShape(32, 64, False, 16),
)
_Q4_0 = _Q4_K._replace(other=ProductShape(32, 64, False, 8))
_BY_FORMAT = {"Q8_0": _Q8_0, "Q4_0": _Q4_0}
_FEW_ROWS = 2048  # up to this many, programs of 8 rows: else most of the card would be idle


def product_shape(format: str, rows: int, chunks: int, gated: bool, after: bool) -> ProductShape:
    """The shape for `rows` rows of `chunks` chunks. after: the result is quantized, in blocks of 32
    rows."""
    shapes = _BY_FORMAT.get(format, _Q4_K)
    if gated:
        shape = shapes.gated
    elif rows >= 32768:
        shape = shapes.many
    elif chunks > 128:
        shape = shapes.long
    else:
        shape = shapes.other
    if rows <= _FEW_ROWS and not after:
        shape = ProductShape(8, 64, False, 4)
    most = power_of_two(chunks)
    if shape.chunks <= most:
        return shape
    warps = max(1, min(shape.warps, most * shape.rows // 128))
    return ProductShape(shape.rows, most, False, warps)
