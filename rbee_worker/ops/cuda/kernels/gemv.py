"""A matrix times one row: y = W x, with the norm before it and what follows it in one launch.

RMS norm needs no pass of its own: the sum of squares grows with the dot product and scales the
result at the end. The order of a sum depends on the tile only, which the matrix's shape chooses.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.activations import activate
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two

_SHORT = 3072  # columns of a row that is not
_MANY = 5000  # rows of a matrix whose tiles may have half the threads
_FEW = 300  # rows of a matrix: somewhat more than two for each multiprocessor of an H200


class GemvShape(NamedTuple):
    """Rows and columns of a program's tile, stages of its pipeline (0: the next tile is held in
    registers; then a tile may be a whole row), warps."""

    rows: int
    cols: int
    stages: int
    warps: int


@triton.jit
def _tile(at, in_rows, cols, K: tl.constexpr, EVEN: tl.constexpr):
    """A tile of the matrix, which nobody reads again. EVEN: all of it exists."""
    if EVEN:
        tile = tl.load(at, eviction_policy="evict_first")
    else:
        ok = in_rows[:, None] & (cols < K)[None, :]
        tile = tl.load(at, mask=ok, other=0.0, eviction_policy="evict_first")
    return tile


@triton.jit
def first_tiles(
    w, norm, rows, N, K: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr, GATED: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    """What a program may read before the kernel before it has ended: the first columns of its rows
    of gates, of ups (GATED) and of the norm's weight (NORM)."""
    cols = tl.arange(0, BK)
    w0 = _tile(w + rows.to(tl.int64)[:, None] * K + cols[None, :], rows < N, cols, K, EVEN)
    u0, g0 = w0, cols
    if GATED:
        ups = (rows + N).to(tl.int64)  # a row of ups, for each row of gates
        u0 = _tile(w + ups[:, None] * K + cols[None, :], rows < N, cols, K, EVEN)
    if NORM:
        if EVEN:
            g0 = tl.load(norm + cols)
        else:
            g0 = tl.load(norm + cols, mask=cols < K, other=0.0)
    return w0, u0, g0


@triton.jit
def row_product(
    x, w, norm, w0, u0, g0, rows, N, eps, K: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr,
    GATED: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """x, after its norm, times these rows of gates and of ups; w0, u0, g0: their `first_tiles`."""
    cols = tl.arange(0, BK)
    wp = w + rows.to(tl.int64)[:, None] * K + cols[None, :]
    vp = w + (rows + N).to(tl.int64)[:, None] * K + cols[None, :]
    x0 = tl.load(x + cols, mask=cols < K, other=0.0).to(tl.float32)
    if NORM:
        squares = x0 * x0
        x0 = x0 * g0
    acc = w0.to(tl.float32) * x0[None, :]
    if GATED:
        ups = u0.to(tl.float32) * x0[None, :]
    for k in tl.range(BK, K, BK, num_stages=STAGES):
        c = k + cols
        w1 = _tile(wp + k, rows < N, c, K, EVEN)
        if EVEN:
            x1 = tl.load(x + c).to(tl.float32)
        else:
            x1 = tl.load(x + c, mask=c < K, other=0.0).to(tl.float32)
        if GATED:
            u1 = _tile(vp + k, rows < N, c, K, EVEN)
        if NORM:
            if EVEN:
                g1 = tl.load(norm + c)
            else:
                g1 = tl.load(norm + c, mask=c < K, other=0.0)
            squares += x1 * x1
            x1 = x1 * g1
        acc += w1.to(tl.float32) * x1[None, :]
        if GATED:
            ups += u1.to(tl.float32) * x1[None, :]
    y = tl.sum(acc, 1)
    up = y
    if GATED:
        up = tl.sum(ups, 1)
    if NORM:
        factor = tl.rsqrt(tl.sum(squares, 0) / K + eps)
        y = y * factor
        up = up * factor
    return y, up


@triton.jit
def _gemv(
    x, w, scales, norm, bias, residual, out, N, eps,
    K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, GATED: tl.constexpr, KIND: tl.constexpr, EVEN: tl.constexpr,
    SCALED: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    in_rows = rows < N
    w0, u0, g0 = first_tiles(w, norm, rows, N, K, BK, NORM, GATED, EVEN)
    if PDL:
        gdc_wait()
    y, up = row_product(x, w, norm, w0, u0, g0, rows, N, eps, K, BK, NORM, GATED, EVEN, STAGES)
    if SCALED:
        y = y * tl.load(scales + rows, mask=in_rows, other=0.0)
        if GATED:
            up = up * tl.load(scales + N + rows, mask=in_rows, other=0.0)
    if BIAS:
        y += tl.load(bias + rows, mask=in_rows, other=0.0)
        if GATED:
            up += tl.load(bias + N + rows, mask=in_rows, other=0.0)
    y = activate(y, KIND)
    if GATED:
        y = y * up
    if RESIDUAL:
        y += tl.load(residual + rows, mask=in_rows, other=0.0).to(tl.float32)
    tl.store(out + rows, y.to(out.dtype.element_ty), mask=in_rows)


def gemv(
    x: Tensor,
    weight: Tensor,
    *,
    scales: Tensor | None = None,
    norm: tuple[Tensor | None, float] | None = None,
    bias: Tensor | None = None,
    gated: str | None = None,
    act: str = "none",
    residual: Tensor | None = None,
    form: torch.dtype | None = None,
    pdl: bool = False,
    shape: GemvShape | None = None,
) -> Tensor:
    """x [1, K] times weight [rows, K] transposed: [1, rows] in `form` (None: as x).

    scales: float32 [rows], factors on the matrix's rows (8-bit floats).
    norm: (weight float32 [K] or None, eps) of an RMS norm of x before the product. bias: float32
    [rows], added to the product. gated: an activation; the matrix then has gates, then ups, and the
    result is act(gate) * up, [1, rows / 2]. act: applied otherwise. residual [1, rows] is added
    last. shape: instead of the table's choice.
    """
    rows, k = weight.shape
    n = rows // 2 if gated else rows
    out = torch.empty((1, n), dtype=form or x.dtype, device=x.device)
    shape = shape or gemv_shape(n, k, gated is not None, weight.dtype.itemsize)
    scale = None if norm is None else norm[0]
    if norm is not None and scale is None:
        scale = torch.ones(k, dtype=torch.float32, device=x.device)
    _gemv[(triton.cdiv(n, shape.rows),)](
        x, weight, scales, scale, bias, residual, out, n, 0.0 if norm is None else norm[1],
        K=k, BN=shape.rows, BK=shape.cols, NORM=norm is not None, BIAS=bias is not None,
        RESIDUAL=residual is not None, GATED=gated is not None, SCALED=scales is not None,
        KIND=gated or act, EVEN=k % shape.cols == 0 and n % shape.rows == 0,
        STAGES=max(shape.stages, 1), num_warps=shape.warps, **dependent(pdl),
    )  # fmt: skip
    return out


def gemv_shape(n: int, k: int, gated: bool, element: int) -> GemvShape:
    """The tile for n rows of k columns.

    Measured on an H200 (bf16): two whole rows a program, all of their bytes in flight at once, beat
    every pipelined loop; longer rows take two or four rows at a time. Where a tile is wider than
    the row, half the threads take 0.68 to 0.98 of the time, if there are many rows (of 2,560 to
    7,168 columns); and short rows are then taken 16 at a time (2,560 columns), which share what is
    read of x and of the norm. Of few long rows
    each is a program, as two would leave multiprocessors without any.
    """
    rows, width = 4 if element == 1 else 2, max(64, min(power_of_two(k), 4096))
    if n <= _FEW and 4096 < k <= 8192 and not gated and element > 1:
        return GemvShape(1, 8192, 0, 8)
    if k > 8192 and not gated:
        return GemvShape(4, 1024 * rows, 0, 8)
    uneven = k % width != 0 and n >= _MANY and element > 1
    if uneven and k < _SHORT and k % 256 == 0 and not gated:
        return GemvShape(16, 256, 0, 4)
    return GemvShape(rows, width, 0, 8 if k >= 1024 and not uneven else 4)
