"""Tile shapes of products that are worth trying on a card that has not been measured."""

from __future__ import annotations

from collections.abc import Iterator

from rbee_worker.ops.cuda.kernels.gemv import GemvShape
from rbee_worker.ops.cuda.kernels.skinny_shapes import SkinnyShape


def gemv_shapes(cols: int, gated: bool) -> Iterator[GemvShape]:
    """Shapes worth trying for one row."""
    tiles = [(1, 4096, 0, 4), (2, 4096, 0, 8), (2, 2048, 0, 4), (2, 2048, 0, 8), (4, 2048, 0, 8)]
    tiles += [(4, 1024, 0, 4), (4, 1024, 3, 4), (4, 1024, 4, 4), (4, 2048, 3, 8), (2, 2048, 3, 8)]
    tiles += [(8, 512, 0, 4), (8, 512, 3, 4), (8, 512, 4, 4), (8, 1024, 3, 8), (8, 1024, 4, 8)]
    tiles += [(16, 512, 3, 8), (16, 512, 4, 8), (16, 256, 4, 4), (8, 512, 6, 4), (4, 1024, 6, 4)]
    for rows, width, stages, warps in tiles:
        if cols % width == 0 and (not gated or rows <= 8):
            yield GemvShape(rows, width, stages, warps)


def skinny_shapes(m: int, cols: int, gated: bool) -> Iterator[SkinnyShape]:
    """Shapes worth trying for m rows."""
    for bulk in (False, True):
        for rows, width, stages, warps in (
            (64, 64, 4, 4), (64, 64, 8, 4), (64, 128, 3, 4), (64, 128, 4, 4), (64, 128, 6, 4),
            (64, 256, 3, 4), (128, 64, 4, 4), (128, 64, 6, 8), (128, 128, 3, 8), (64, 256, 4, 8),
            (32, 256, 4, 4),
        ):  # fmt: skip
            operands = (rows * (2 if gated else 1) + max(8, m)) * width * 2 * stages
            if cols % width or operands > 220_000 or (bulk and rows == 32):
                continue
            for split in (1,) if gated else (1, 2, 4):
                for early in (True, False):
                    yield SkinnyShape(rows, width, split, stages, warps, bulk, early)
