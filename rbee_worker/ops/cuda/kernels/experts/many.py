"""Experts of many rows: pairs sorted by expert, and products of tiles of them on tensor cores.

A tile of a matrix is the first operand (out^T = W x^T), so a tile may have as few as 16 pairs. A
pair's sums run over ascending columns, whatever else is in its tile; a row's experts are added in
ascending order by a kernel of its own.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
from triton.tools.tensor_descriptor import TensorDescriptor

from rbee_worker.ops.cuda.kernels.activations import activate
from rbee_worker.ops.cuda.kernels.experts.few import BLOCK, gate
from rbee_worker.ops.cuda.kernels.experts.sort import Tiles, sort
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two, precision

_NEIGHBOURS = 8  # tiles of pairs that share a tile of a matrix at about the same time


class TileShape(NamedTuple):
    """A program's pairs, its rows of the matrix, columns at a time, loads in flight, warps. bulk:
    tiles are copied by the bulk copy engine where they lie together (TMA, from compute capability
    9.0 on)."""

    pairs: int
    rows: int
    cols: int
    stages: int
    warps: int
    bulk: bool = False


@triton.jit
def multiplied(a, xt, acc, scales, k, PRECISION: tl.constexpr, SCALED: tl.constexpr):
    """acc + a xt for columns k .. of rows a; scales: the rows' first ones, see `_product`."""
    if SCALED:
        more = tl.dot(a.to(xt.dtype), xt, input_precision=PRECISION)
        acc += more * tl.load(scales + k // BLOCK)[:, None]
    else:
        acc = tl.dot(a, xt, acc, input_precision=PRECISION)
    return acc


@triton.jit
def _product(
    x, w, scales, bias, out, order, owner, first, end, tiles, width, limit, K: tl.constexpr,
    TOP: tl.constexpr, UP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    GATED: tl.constexpr, KIND: tl.constexpr, LIMIT: tl.constexpr, BIAS: tl.constexpr,
    SCALED: tl.constexpr, BULK: tl.constexpr, GROUP: tl.constexpr, STAGES: tl.constexpr,
    PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Products of one tile of pairs with BN rows of their expert's matrix.

    UP: x has the rows of pairs, and out[place] = act(W x + bias). Otherwise x has what that wrote,
    by place, and out[pair] = W x + bias. SCALED: w is in 8-bit floats, with a scale for each 128
    columns of a row. BULK: w and, unless UP, x are descriptors.
    """
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    # GROUP tiles of pairs go through all tiles of the matrix together.
    columns = tl.cdiv(width, BN)
    wide = tl.program_id(0) // (GROUP * columns)
    inside = tl.program_id(0) % (GROUP * columns)
    high = tl.minimum(tiles - wide * GROUP, GROUP)
    tile = wide * GROUP + inside % high
    column = inside // high
    e = tl.load(owner + tile).to(tl.int64)
    if e >= 0:
        places = tl.load(first + tile) + tl.arange(0, BM)
        live = places < tl.load(end + tile)
        pair = tl.load(order + places, mask=live, other=0)
        rows, cols = column * BN + tl.arange(0, BN), tl.arange(0, BK)
        ok = rows < width
        begin = e * width
        if GATED:
            begin *= 2
        BY_ROW: tl.constexpr = UP or not BULK  # x is read row by row
        if not BULK:
            wp = w + (begin + tl.minimum(rows, width - 1))[:, None] * K + cols[None, :]
        if BY_ROW:
            source = pair // TOP if UP else tl.where(live, places, 0)
            xp = x + source.to(tl.int64)[None, :] * K + cols[:, None]
        at, of = (begin + column * BN).to(tl.int32), tl.load(first + tile)
        sp, tp = scales, scales
        if SCALED:
            sp += (begin + tl.minimum(rows, width - 1)) * (K // BLOCK)
            tp = sp + width * (K // BLOCK)  # of ups
        acc = tl.zeros([BN, BM], tl.float32)
        ups = tl.zeros([BN, BM], tl.float32)
        for k in tl.range(0, K, BK, num_stages=STAGES):
            if not BY_ROW:
                xt = x.load([of, k]).T
            elif K % BK == 0:
                xt = tl.load(xp + k)
            else:
                xt = tl.load(xp + k, mask=(k + cols < K)[:, None], other=0.0)
            if BULK:
                a = w.load([at, k])
            elif K % BK == 0:
                a = tl.load(wp + k)
            else:
                a = tl.load(wp + k, mask=(k + cols < K)[None, :], other=0.0)
            acc = multiplied(a, xt, acc, sp, k, PRECISION, SCALED)
            if GATED:
                if BULK:
                    u = w.load([at + width, k])
                elif K % BK == 0:
                    u = tl.load(wp + width * K + k)
                else:
                    u = tl.load(wp + width * K + k, mask=(k + cols < K)[None, :], other=0.0)
                ups = multiplied(u, xt, ups, tp, k, PRECISION, SCALED)
        if BIAS:
            acc += tl.load(bias + begin + rows, mask=ok, other=0.0)[:, None]
            if GATED:
                ups += tl.load(bias + begin + width + rows, mask=ok, other=0.0)[:, None]
        if GATED:
            acc = gate(acc, ups, limit, KIND, LIMIT)
        else:
            acc = activate(acc, KIND)
        if UP:
            target = places
        else:
            target = pair
        op = out + target.to(tl.int64)[None, :] * width + rows[:, None]
        tl.store(op, acc.to(out.dtype.element_ty), mask=live[None, :] & ok[:, None])


@triton.jit
def _combine(
    y, weights, residual, out, dim, TOP: tl.constexpr, WEIGHTS: tl.constexpr,
    RESIDUAL: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """out[row] = sum over its experts of weight * y[pair], in their order, in float32, and the
    RESIDUAL."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = cols < dim
    acc = tl.zeros([BLOCK], tl.float32)
    for j in tl.static_range(TOP):
        value = tl.load(y + (row * TOP + j) * dim + cols, mask=ok, other=0.0).to(tl.float32)
        if WEIGHTS:
            value = value * tl.load(weights + row * TOP + j)
        acc += value
    if RESIDUAL:
        acc += tl.load(residual + row * dim + cols, mask=ok, other=0.0).to(tl.float32)
    tl.store(out + row * dim + cols, acc.to(out.dtype.element_ty), mask=ok)


def many(
    x: Tensor,
    ids: Tensor,
    weights: Tensor | None,
    up: Tensor,
    down: Tensor,
    kind: str,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    limit: float | None,
    residual: Tensor | None = None,
    *,
    up_scales: Tensor | None = None,
    down_scales: Tensor | None = None,
    pdl: bool,
) -> Tensor:
    """See `experts`."""
    n, top = ids.shape
    count, dim, width = down.shape
    gated = up.shape[1] != width
    per_expert = n * top / count
    first, second = _shapes(per_expert, gated, x.element_size())
    tiles = sort(ids, count, first.pairs, pdl=pdl)
    h = torch.empty((n * top, width), dtype=x.dtype, device=x.device)
    y = torch.empty((n * top, dim), dtype=x.dtype, device=x.device)
    out = torch.empty((n, dim), dtype=x.dtype, device=x.device)
    _multiply(
        x, up, up_scales, up_bias, h, tiles, first, top=top, up=True, gated=gated, kind=kind,
        limit=limit, pdl=pdl,
    )  # fmt: skip
    _multiply(
        h, down, down_scales, down_bias, y, tiles, second, top=top, up=False, gated=False,
        kind="none", limit=None, pdl=pdl,
    )  # fmt: skip
    block = min(power_of_two(dim), 1024)
    _combine[(n, triton.cdiv(dim, block))](
        y, weights, residual, out, dim, TOP=top, WEIGHTS=weights is not None,
        RESIDUAL=residual is not None, BLOCK=block, num_warps=4, **dependent(pdl),
    )  # fmt: skip
    return out


def _multiply(
    x: Tensor,
    stack: Tensor,
    scales: Tensor | None,
    bias: Tensor | None,
    out: Tensor,
    tiles: Tiles,
    s: TileShape,
    *,
    top: int,
    up: bool,
    gated: bool,
    kind: str,
    limit: float | None,
    pdl: bool,
) -> None:
    """Launch `_product` into `out`."""
    assert s.pairs == tiles.height
    width, k = out.shape[1], x.shape[1]
    count = tiles.owner.shape[0]
    bulk = s.bulk and scales is None and k * x.element_size() % 16 == 0
    given: Any = x
    matrix: Any = stack
    if bulk:
        shape = [stack.shape[0] * stack.shape[1], k]
        matrix = TensorDescriptor(stack, shape, [k, 1], [s.rows, s.cols])
        if not up:
            given = TensorDescriptor(x, list(x.shape), [k, 1], [s.pairs, s.cols])
    _product[(count * triton.cdiv(width, s.rows),)](
        given, matrix, scales, bias, out, tiles.order, tiles.owner, tiles.first, tiles.end, count,
        width, limit or 0.0, K=k, TOP=top, UP=up, BM=s.pairs, BN=s.rows, BK=s.cols, GATED=gated,
        KIND=kind, LIMIT=limit is not None, BIAS=bias is not None, SCALED=scales is not None,
        BULK=bulk, GROUP=_NEIGHBOURS, STAGES=s.stages, PRECISION=precision(x.dtype),
        num_warps=s.warps, **dependent(pdl),
    )  # fmt: skip


def _shapes(per_expert: float, gated: bool, size: int) -> tuple[TileShape, TileShape]:
    """Shapes of the two products, by how many pairs an expert has."""
    if size == 4:  # float32, without tensor cores
        return TileShape(16, 32, 32, 2, 4), TileShape(16, 32, 32, 2, 4)
    if per_expert <= 8:
        return TileShape(16, 64, 128, 4, 4), TileShape(16, 64, 128, 4, 4, bulk=True)
    if per_expert <= 48:
        return TileShape(64, 64, 64, 4, 4), TileShape(64, 128, 64, 4, 4)
    rows = 128 if gated else 256
    return TileShape(128, rows, 64, 4, 8, bulk=True), TileShape(128, 256, 64, 4, 8, bulk=True)
