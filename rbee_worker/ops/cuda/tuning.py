"""Which tile shape is fastest for a product, measured on this GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from rbee_worker.ops.cuda.kernels.gemv import GemvShape, gemv
from rbee_worker.ops.cuda.kernels.skinny import skinny
from rbee_worker.ops.cuda.kernels.skinny_shapes import SkinnyShape
from rbee_worker.ops.cuda.kernels.workspace import Workspace

_COLD = 6e8  # bytes of weights in turn, more than any L2 cache holds


class Timed(NamedTuple):
    """Seconds of one product with a shape."""

    seconds: float
    shape: Any


def graph_seconds(run: Callable[[], object], repeats: int = 9) -> float:
    """The median time of a CUDA graph of `run`, in seconds."""
    run()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        run()
    found = []
    for _ in range(repeats + 2):
        first = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        last = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        first.record()
        graph.replay()
        last.record()
        last.synchronize()
        found.append(first.elapsed_time(last) * 1e-3)
    middle: float = sorted(found[2:])[repeats // 2]
    return middle


def cold_weights(rows: int, cols: int, dtype: torch.dtype) -> list[Tensor]:
    """Random matrices, enough of them that none is in the cache when its turn comes."""
    count = max(2, int(_COLD / (rows * cols * dtype.itemsize)) + 1)
    made = [torch.empty(rows, cols, device="cuda", dtype=dtype) for _ in range(count)]
    return [one.normal_(0, cols**-0.5) for one in made]


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


def timed(
    shapes: Iterable[Any], weights: list[Tensor], product: Callable[[Tensor, Any], Tensor]
) -> list[Timed]:
    """Each shape's time, the fastest first; a shape that the GPU has no room for is left out."""
    found = []
    for shape in shapes:
        try:
            run = lambda shape=shape: [product(w, shape) for w in weights]  # noqa: E731
            found.append(Timed(graph_seconds(run) / len(weights), shape))
        except Exception as error:
            if "out of resource" not in str(error):
                raise
    return sorted(found)


def tune_gemv(rows: int, cols: int, *, gated: str | None, residual: bool) -> list[Timed]:
    """The shapes for one row of bf16."""
    weights = cold_weights(rows, cols, torch.bfloat16)
    x = torch.randn(1, cols, device="cuda", dtype=torch.bfloat16)
    n = rows // 2 if gated else rows
    added = torch.randn(1, n, device="cuda", dtype=torch.bfloat16) if residual else None
    norm = None if residual else (torch.ones(cols, device="cuda"), 1e-5)

    def product(w: Tensor, shape: GemvShape) -> Tensor:
        return gemv(x, w, gated=gated, residual=added, norm=norm, pdl=True, shape=shape)

    return timed(gemv_shapes(cols, gated is not None), weights, product)


def tune_skinny(m: int, rows: int, cols: int, *, gated: str | None, residual: bool) -> list[Timed]:
    """The shapes for m rows of bf16."""
    weights = cold_weights(rows, cols, torch.bfloat16)
    workspace = Workspace("cuda")
    x = torch.randn(m, cols, device="cuda", dtype=torch.bfloat16)
    n = rows // 2 if gated else rows
    added = torch.randn(m, n, device="cuda", dtype=torch.bfloat16) if residual else None

    def product(w: Tensor, shape: SkinnyShape) -> Tensor:
        return skinny(x, w, workspace, gated=gated, residual=added, pdl=True, shape=shape)

    return timed(skinny_shapes(m, cols, gated is not None), weights, product)
