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


class GemvShape(NamedTuple):
    """Rows and columns of a program's tile, stages of its pipeline (0: the next tile is held in
    registers; then a tile may be a whole row), warps."""

    rows: int
    cols: int
    stages: int
    warps: int


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
    cols = tl.arange(0, BK)
    in_rows = rows < N
    wp = w + rows.to(tl.int64)[:, None] * K + cols[None, :]
    up_rows = (rows + N).to(tl.int64)  # a row of ups, for each row of gates
    vp = w + up_rows[:, None] * K + cols[None, :]
    if EVEN:
        w0 = tl.load(wp, eviction_policy="evict_first")
        if GATED:
            u0 = tl.load(vp, eviction_policy="evict_first")
        if NORM:
            g0 = tl.load(norm + cols)
    else:
        ok = in_rows[:, None] & (cols < K)[None, :]
        w0 = tl.load(wp, mask=ok, other=0.0, eviction_policy="evict_first")
        if GATED:
            u0 = tl.load(vp, mask=ok, other=0.0, eviction_policy="evict_first")
        if NORM:
            g0 = tl.load(norm + cols, mask=cols < K, other=0.0)
    if PDL:
        gdc_wait()
    x0 = tl.load(x + cols, mask=cols < K, other=0.0).to(tl.float32)
    if NORM:
        squares = x0 * x0
        x0 = x0 * g0
    acc = w0.to(tl.float32) * x0[None, :]
    if GATED:
        ups = u0.to(tl.float32) * x0[None, :]
    for k in tl.range(BK, K, BK, num_stages=STAGES):
        c = k + cols
        if EVEN:
            w1 = tl.load(wp + k, eviction_policy="evict_first")
            x1 = tl.load(x + c).to(tl.float32)
            if GATED:
                u1 = tl.load(vp + k, eviction_policy="evict_first")
            if NORM:
                g1 = tl.load(norm + c)
        else:
            ok = in_rows[:, None] & (c < K)[None, :]
            w1 = tl.load(wp + k, mask=ok, other=0.0, eviction_policy="evict_first")
            x1 = tl.load(x + c, mask=c < K, other=0.0).to(tl.float32)
            if GATED:
                u1 = tl.load(vp + k, mask=ok, other=0.0, eviction_policy="evict_first")
            if NORM:
                g1 = tl.load(norm + c, mask=c < K, other=0.0)
        if NORM:
            squares += x1 * x1
            x1 = x1 * g1
        acc += w1.to(tl.float32) * x1[None, :]
        if GATED:
            ups += u1.to(tl.float32) * x1[None, :]
    y = tl.sum(acc, 1)
    if GATED:
        up = tl.sum(ups, 1)
    if NORM:
        factor = tl.rsqrt(tl.sum(squares, 0) / K + eps)
        y = y * factor
        if GATED:
            up = up * factor
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
    every pipelined loop; longer rows take two or four rows at a time.
    """
    rows = 4 if element == 1 else 2
    if k > 8192 and not gated:
        return GemvShape(4, 1024 * rows, 0, 8)
    return GemvShape(rows, max(64, min(power_of_two(k), 4096)), 0, 8 if k >= 1024 else 4)
