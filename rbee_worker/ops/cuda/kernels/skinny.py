"""A matrix times a few rows: out = x W^T for 2 to 64 rows, on tensor cores.

The weight tile is the first operand of the product (out^T = W x^T), so that as few as 8 rows fill
an instruction. The order of a row's sum depends on the matrix's shape and on whether there are more
than 8 rows (of integers, on the shape only), not on the other rows.

Both may be in 8 bits. Floats: tensor cores add those in fewer bits than float32 has, so their sums
are moved to float32 after every 128 columns. Integers: the sum of a block of 128 columns is exact,
and multiplied with the block's scales of both.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.tools.tensor_descriptor import TensorDescriptor

from rbee_worker.ops.cuda.kernels.block_bytes import BLOCK
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two, precision
from rbee_worker.ops.cuda.kernels.product_end import all_parts, finish, is_last_part
from rbee_worker.ops.cuda.kernels.skinny_shapes import SkinnyShape, skinny_shape
from rbee_worker.ops.cuda.kernels.workspace import Workspace

FEW = 64  # rows that this product takes; cuBLAS takes more
_CHAIN = 128  # columns of 8-bit floats that tensor cores add before the sum is moved to float32


@triton.jit
def _skinny(
    x, w, x_scales, scales, bias, residual, out, partial, arrived, x_squares, next_weight, weighted,
    squares, M, N, ROWS, chunk, eps,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, GATED: tl.constexpr, KIND: tl.constexpr,
    EVEN: tl.constexpr, BULK: tl.constexpr, SCALED: tl.constexpr, X_SCALED: tl.constexpr,
    BLOCKED: tl.constexpr, FILLED: tl.constexpr, STAGES: tl.constexpr, PRECISION: tl.constexpr,
    CHAIN: tl.constexpr, TILES: tl.constexpr, AHEAD: tl.constexpr, PDL: tl.constexpr,
    EARLY: tl.constexpr,
):  # fmt: skip
    """BULK: x and w are descriptors, which give zeros beyond the edges. CHAIN:
    columns of 8-bit floats that tensor cores add on their own, or 0. BLOCKED: 8-bit integers, with
    BK = 128; FILLED: rows that there are scales of x for. ROWS: of the matrix. TILES: parts
    of the sums of squares of x, or 0."""
    if PDL and EARLY:
        gdc_launch_dependents()
    tile, part = tl.program_id(0), tl.program_id(1)
    rows, m, cols = tile * BN + tl.arange(0, BN), tl.arange(0, BM), tl.arange(0, BK)
    in_rows, in_m = rows < N, (m < M)[None, :]
    begin = part * chunk
    end = tl.minimum(begin + chunk, K)
    if not BULK:
        wp = w + rows.to(tl.int64)[:, None] * K + cols[None, :]
        vp = w + (rows + N).to(tl.int64)[:, None] * K + cols[None, :]
        xp = x + m[None, :] * K + cols[:, None]
    acc = tl.zeros([BN, BM], tl.float32)
    ups = acc
    if PDL:
        gdc_wait()
    if TILES:
        t = tl.arange(0, triton.next_power_of_2(TILES))[:, None]
        square = tl.load(x_squares + t * BM + m[None, :], mask=t < TILES, other=0.0)  # used later
    for k in tl.range(begin, end, BK, num_stages=STAGES):
        if BULK:
            a = w.load([tile * BN, k])
            xt = x.load([0, k]).T
        elif EVEN:
            a = tl.load(wp + k, eviction_policy="evict_first")
            xt = tl.load(xp + k, mask=in_m, other=0.0)
        else:
            ok = k + cols < end
            a = tl.load(wp + k, mask=in_rows[:, None] & ok[None, :], other=0.0)
            xt = tl.load(xp + k, mask=in_m & ok[:, None], other=0.0)
        if BLOCKED:
            of_x = tl.load(x_scales + (k // BK) * FILLED + m)[None, :]
            s = tl.load(scales + (k // BK) * ROWS + rows, mask=in_rows, other=0.0)[:, None]
            acc = tl.fma(tl.dot(a, xt).to(tl.float32) * s, of_x, acc)
        else:
            acc = _multiplied(a, xt, acc, PRECISION, CHAIN)
        if GATED:
            if BULK:
                u = w.load([N + tile * BN, k])
            elif EVEN:
                u = tl.load(vp + k, eviction_policy="evict_first")
            else:
                u = tl.load(vp + k, mask=in_rows[:, None] & ok[None, :], other=0.0)
            if BLOCKED:
                t = tl.load(scales + (k // BK) * ROWS + N + rows, mask=in_rows, other=0.0)[:, None]
                ups = tl.fma(tl.dot(u, xt).to(tl.float32) * t, of_x, ups)
            else:
                ups = _multiplied(u, xt, ups, PRECISION, CHAIN)
    if PDL and not EARLY:
        gdc_launch_dependents()
    if X_SCALED:
        each = tl.load(x_scales + m, mask=m < M, other=0.0)[None, :]
        acc = acc * each
        if GATED:
            ups = ups * each
    if TILES:
        factor = tl.rsqrt(tl.sum(square, 0) / K + eps)[None, :]
        acc = acc * factor
        if GATED:
            ups = ups * factor
    if SPLIT == 1:
        finish(acc, ups, scales, bias, residual, out, rows, m, M, N, next_weight, weighted, squares,
               tile, SCALED, BIAS, RESIDUAL, GATED, KIND, AHEAD, BM)  # fmt: skip
    elif is_last_part(acc, partial, arrived, tile, part, SPLIT, BN, BM):
        acc = all_parts(partial, tile, SPLIT, BN, BM)
        finish(acc, ups, scales, bias, residual, out, rows, m, M, N, next_weight, weighted, squares,
               tile, SCALED, BIAS, RESIDUAL, GATED, KIND, AHEAD, BM)  # fmt: skip
        tl.store(arrived + tile, 0)


@triton.jit
def _multiplied(a, xt, acc, PRECISION: tl.constexpr, CHAIN: tl.constexpr):
    """acc + a xt"""
    if CHAIN:
        return tl.dot(a, xt, acc, max_num_imprecise_acc=CHAIN)
    else:
        return tl.dot(a.to(xt.dtype), xt, acc, input_precision=PRECISION)


class Weighted(NamedTuple):
    """A product's result for the next product, with an RMS norm between them: `values` [M, K] is
    the result times the norm's weight, and `squares`, float32 [tiles, M filled up], has the sums of
    squares of the result's parts, with which the next product makes the norm's factor."""

    values: Tensor
    squares: Tensor
    eps: float


def skinny(x: Tensor | Weighted, weight: Tensor, workspace: Workspace, **options: Any) -> Tensor:
    """x [M, K] times weight [rows, K] transposed, M from 1 to 64: [M, rows]; see `skinny_ahead`."""
    return skinny_ahead(x, weight, workspace, **options)[0]


def skinny_ahead(
    x: Tensor | Weighted,
    weight: Tensor,
    workspace: Workspace,
    *,
    x_scales: Tensor | None = None,
    scales: Tensor | None = None,
    bias: Tensor | None = None,
    gated: str | None = None,
    act: str = "none",
    residual: Tensor | None = None,
    form: torch.dtype | None = None,
    ahead: tuple[Tensor, float] | None = None,
    pdl: bool = False,
    shape: SkinnyShape | None = None,
) -> tuple[Tensor, Weighted | None]:
    """`skinny`; options as of `gemv`, and:

    x_scales: float32 [M], factors on the rows of x, which is then in 8-bit floats as the weight is.
    Integers of 8 bits have x_scales [K / 128, M filled up as by `to_bytes`] and scales [K / 128,
    rows]. `form` must be given for both. ahead: weight float32 [rows] and eps of an RMS norm
    between the result and a next product: the second result. shape: instead of the table's choice.
    """
    before = x if isinstance(x, Weighted) else None
    x = x.values if isinstance(x, Weighted) else x
    m, k = x.shape
    rows = weight.shape[0]
    n = rows // 2 if gated else rows
    out = torch.empty((m, n), dtype=form or x.dtype, device=x.device)
    blocked = x.dtype == torch.int8
    shape = shape or skinny_shape(m, n, k, gated is not None, x.dtype)
    tiles, bm = triton.cdiv(n, shape.rows), max(8, power_of_two(m))
    chunk = triton.cdiv(triton.cdiv(k, shape.cols), shape.split) * shape.cols
    split = triton.cdiv(k, chunk)
    partial = workspace.floats(tiles * split * shape.rows * bm) if split > 1 else None
    bulk = shape.bulk and k * weight.element_size() % 16 == 0
    left: Any = TensorDescriptor(x, [m, k], [k, 1], [bm, shape.cols]) if bulk else x
    right: Any = weight
    if bulk:
        right = TensorDescriptor(weight, [rows, k], [k, 1], [shape.rows, shape.cols])
    following = None
    if ahead is not None:
        squares = torch.empty((tiles, bm), dtype=torch.float32, device=x.device)
        following = Weighted(torch.empty_like(out), squares, ahead[1])
    filled = 0
    if blocked:
        assert x_scales is not None
        assert shape.cols == BLOCK
        filled = x_scales.shape[1]
    _skinny[(tiles, split)](
        left, right, x_scales, scales, bias, residual, out, partial,
        workspace.counters(tiles), None if before is None else before.squares,
        None if ahead is None else ahead[0], None if following is None else following.values,
        None if following is None else following.squares, m, n, rows, chunk,
        0.0 if before is None else before.eps,
        K=k, BM=bm, BN=shape.rows, BK=shape.cols, SPLIT=split, BIAS=bias is not None,
        RESIDUAL=residual is not None, GATED=gated is not None, KIND=gated or act,
        EVEN=k % shape.cols == 0 and n % shape.rows == 0, BULK=bulk,
        SCALED=scales is not None and not blocked, X_SCALED=x_scales is not None and not blocked,
        BLOCKED=blocked, FILLED=filled, STAGES=shape.stages, PRECISION=precision(x.dtype),
        CHAIN=min(_CHAIN, shape.cols) if x_scales is not None and not blocked else 0,
        TILES=0 if before is None else before.squares.shape[0], AHEAD=ahead is not None,
        EARLY=shape.early, num_warps=shape.warps, **dependent(pdl),
    )  # fmt: skip
    return out, following
