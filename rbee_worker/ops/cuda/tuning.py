"""Which tile shape is fastest for a product, measured on this GPU."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from triton.runtime.jit import JITFunction

from rbee_worker.ops.cuda.kept_shapes import KeptShapes, Measured, Product, candidates
from rbee_worker.ops.cuda.kernels.gemv import GemvShape, gemv, gemv_shape
from rbee_worker.ops.cuda.kernels.skinny import skinny
from rbee_worker.ops.cuda.kernels.skinny_shapes import SkinnyShape, skinny_shape
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from rbee_worker.ops.cuda.shape_candidates import gemv_shapes, skinny_shapes

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


def tune(
    products: Sequence[Product], kept: KeptShapes, told: Callable[[int, int, str], None]
) -> str:
    """Measure the products of which nothing is kept, and keep what is found. Returns why that could
    not be written, or ""."""
    missing = [product for product in products if product.name not in kept.found]
    new: dict[str, Measured] = {}
    for number, product in enumerate(missing, 1):
        new[product.name] = _fastest(product)
        told(number, len(missing), product.name)
    return kept.add(new) if new else ""


def _fastest(product: Product) -> Measured:
    """The fastest shape of a product, the tables' own among them."""
    few, rows, cols, gated, dtype = product
    weights, workspace = cold_weights(rows, cols, dtype), Workspace("cuda")
    x = torch.randn(few, cols, device="cuda", dtype=dtype)
    how: dict[str, Any] = {"gated": "silu" if gated else None, "pdl": _pdl()}
    n = rows // 2 if gated else rows

    def computed(w: Tensor, shape: Any) -> Tensor:
        if few == 1:
            return gemv(x, w, shape=shape, **how)
        return skinny(x, w, workspace, shape=shape, **how)

    own: GemvShape | SkinnyShape = (
        gemv_shape(n, cols, gated, dtype.itemsize)
        if few == 1
        else skinny_shape(few, n, cols, gated, dtype)
    )
    others = [shape for shape in candidates(product) if shape != own]
    with compiling():
        for shape in (own, *others):
            computed(weights[0], shape)
    (table,) = timed([own], weights, computed)
    found = timed(others, weights, computed)
    if not found or found[0].seconds > _WORTH * table.seconds:
        return Measured((), 1e6 * table.seconds, 1e6 * table.seconds)
    best = found[0]
    return Measured(tuple(map(int, best.shape)), 1e6 * best.seconds, 1e6 * table.seconds)


_WORTH = 0.98  # of the tables' time, from which on another shape is taken


def _pdl() -> bool:
    return torch.cuda.get_device_capability()[0] >= 9


@contextmanager
def compiling() -> Iterator[None]:
    """Kernels launched inside are compiled, several at a time, and not run. One that does not
    compile fails later, when it is timed."""
    run = JITFunction.run

    def dry(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        return run(self, *args, grid=grid, warmup=True, **kwargs)

    JITFunction.run = dry
    try:
        with ThreadPoolExecutor() as pool, triton.AsyncCompileMode(pool, ignore_errors=True):
            yield
    finally:
        JITFunction.run = run
