"""A matrix times any number of rows, where a row's sums have one order whatever their number.

The columns of a row are cut into parts, as many as the matrix's shape says. A part is summed on
tensor cores over ascending columns, 16 at a time, and the parts are added in their order: by one
program where there are many rows, by the last of several where there are few. Tiles of other sizes
do not change that order.
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
from rbee_worker.ops.cuda.kernels.launch import INTERPRETED, dependent, precision
from rbee_worker.ops.cuda.kernels.workspace import Workspace

_PROGRAMS = 256  # that a product of few rows should have
_LEAST = 1024  # columns of a part
_CHUNK = 128  # a part has a multiple of this
_FEW = 64  # rows up to which parts have programs of their own


class _Tile(NamedTuple):
    """Rows of x, rows of the matrix, columns at a time, loads in flight, warps."""

    m: int
    n: int
    k: int
    stages: int
    warps: int


@triton.jit
def _fixed(
    x, w, scales, bias, residual, out, partial, arrived, M, N, chunk,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, PARTS: tl.constexpr,
    SPLIT: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, KIND: tl.constexpr,
    EVEN: tl.constexpr, BULK: tl.constexpr, SCALED: tl.constexpr, BLOCKS: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (tiles, parts if SPLIT). Eight tiles of x go through all tiles of the matrix together.

    The matrix is the first operand (out^T = W x^T). BULK: w and x are descriptors, which give zeros
    beyond the edges. BLOCKS: a row of the matrix has a scale for each 128 columns, and BK is 128.
    """
    if PDL:
        gdc_launch_dependents()
    columns, heights = tl.cdiv(N, BN), tl.cdiv(M, BM)
    wide, inside = tl.program_id(0) // (8 * columns), tl.program_id(0) % (8 * columns)
    high = tl.minimum(heights - wide * 8, 8)
    x_tile, w_tile = wide * 8 + inside % high, inside // high
    part = tl.program_id(1)
    first, last = 0, PARTS
    if SPLIT:
        first, last = part, part + 1
    rows, m, cols = w_tile * BN + tl.arange(0, BN), x_tile * BM + tl.arange(0, BM), tl.arange(0, BK)
    in_rows, in_m = rows < N, (m < M)[None, :]
    if not BULK:
        wp = w + rows.to(tl.int64)[:, None] * K + cols[None, :]
        xp = x + m.to(tl.int64)[None, :] * K + cols[:, None]
    total = tl.zeros([BN, BM], tl.float32)
    if PDL:
        gdc_wait()
    for p in range(first, last):
        acc = tl.zeros([BN, BM], tl.float32)
        for k in tl.range(p * chunk, tl.minimum(p * chunk + chunk, K), BK, num_stages=STAGES):
            if BULK:
                a = w.load([w_tile * BN, k])
                xt = x.load([x_tile * BM, k]).T
            elif EVEN:
                a = tl.load(wp + k, mask=in_rows[:, None], other=0.0)
                xt = tl.load(xp + k, mask=in_m, other=0.0)
            else:
                ok = k + cols < K
                a = tl.load(wp + k, mask=in_rows[:, None] & ok[None, :], other=0.0)
                xt = tl.load(xp + k, mask=in_m & ok[:, None], other=0.0)
            if BLOCKS:
                scale = tl.load(scales + rows * (K // BK) + k // BK, mask=in_rows, other=0.0)
                block = tl.dot(a.to(xt.dtype), xt, input_precision=PRECISION)
                acc += block * scale[:, None]
            else:
                acc = tl.dot(a.to(xt.dtype), xt, acc, input_precision=PRECISION)
        total += acc
    done = True
    if SPLIT:
        at = tl.arange(0, BN)[:, None] * BM + tl.arange(0, BM)[None, :]
        tl.store(partial + (w_tile * PARTS + part) * BN * BM + at, total)
        tl.debug_barrier()
        done = tl.atomic_add(arrived + w_tile, 1, sem="acq_rel", scope="gpu") == PARTS - 1
        tl.debug_barrier()
    if done:
        if SPLIT:
            total = tl.zeros([BN, BM], tl.float32)
            for i in tl.static_range(PARTS):
                place = partial + (w_tile * PARTS + i) * BN * BM + at
                total += tl.load(place, cache_modifier=".cg")
            tl.store(arrived + w_tile, 0)
        if SCALED:
            total = total * tl.load(scales + rows, mask=in_rows, other=0.0)[:, None]
        if BIAS:
            total += tl.load(bias + rows, mask=in_rows, other=0.0)[:, None]
        total = activate(total, KIND)
        op = m.to(tl.int64)[None, :] * N + rows[:, None]
        ok_out = in_m & in_rows[:, None]
        if RESIDUAL:
            total += tl.load(residual + op, mask=ok_out, other=0.0).to(tl.float32)
        tl.store(out + op, total.to(out.dtype.element_ty), mask=ok_out)


def fixed_product(
    x: Tensor,
    weight: Tensor,
    workspace: Workspace,
    *,
    scales: Tensor | None = None,
    bias: Tensor | None = None,
    act: str = "none",
    residual: Tensor | None = None,
    form: torch.dtype | None = None,
    pdl: bool = False,
) -> Tensor:
    """x [M, K] times weight [N, K] transposed: [M, N] in `form` (None: as x).

    scales: float32, factors on the matrix's rows (8-bit floats) [N], or on each 128 columns of them
    [N, K / 128]; bias: float32 [N], added to the product; act: applied then; residual [M, N] is
    added last. A row of the result depends, bit for bit, on its own row of x and on the matrix.
    """
    m, k = x.shape
    n = weight.shape[0]
    out = torch.empty((m, n), dtype=form or x.dtype, device=x.device)
    if not m:
        return out
    blocks = scales is not None and scales.dim() == 2
    tile = _tile(m, x.element_size(), blocks=blocks)
    assert scales is None or scales.shape in ((n,), (n, k // tile.k))
    chunk, parts = _parts(n, k)
    w_tiles, x_tiles = triton.cdiv(n, tile.n), triton.cdiv(m, tile.m)
    split = parts > 1 and x_tiles == 1 and m <= _FEW
    partial = workspace.floats(w_tiles * parts * tile.n * tile.m) if split else None
    bulk = pdl and k * weight.element_size() % 16 == 0 and k * x.element_size() % 16 == 0
    left: Any = TensorDescriptor(x, [m, k], [k, 1], [tile.m, tile.k]) if bulk else x
    right: Any = TensorDescriptor(weight, [n, k], [k, 1], [tile.n, tile.k]) if bulk else weight
    _fixed[(w_tiles * x_tiles, parts if split else 1)](
        left, right, scales, bias, residual, out, partial,
        workspace.counters(w_tiles) if split else None, m, n, chunk,
        K=k, BM=tile.m, BN=tile.n, BK=tile.k, PARTS=parts, SPLIT=split, BIAS=bias is not None,
        RESIDUAL=residual is not None, KIND=act, EVEN=k % tile.k == 0, BULK=bulk,
        SCALED=scales is not None and not blocks, BLOCKS=blocks, STAGES=tile.stages,
        PRECISION=precision(x.dtype), num_warps=tile.warps, enable_fp_fusion=False,
        **dependent(pdl),
    )  # fmt: skip
    return out


def _parts(n: int, k: int) -> tuple[int, int]:
    """The columns of a part, and the number of parts, of a matrix [n, k]."""
    wanted = max(1, min(_PROGRAMS // triton.cdiv(n, 64), triton.cdiv(k, _LEAST)))
    chunk = triton.cdiv(triton.cdiv(k, _CHUNK), wanted) * _CHUNK
    return chunk, triton.cdiv(k, chunk)


def _tile(m: int, element: int, *, blocks: bool) -> _Tile:
    """The tile for m rows. In the interpreter numpy multiplies a whole tile, in an order that may
    follow from its size: there it has one size. blocks: of 128 columns."""
    if INTERPRETED:
        return _Tile(16, 32, _CHUNK if blocks else 64, 1, 4)
    if blocks and element == 4:
        return _Tile(16, 32, _CHUNK, 1, 4)
    if blocks and m > _FEW:
        return _Tile(128, 128, _CHUNK, 3, 8)
    if element == 4:  # without tensor cores
        return _Tile(16, 32, 32, 2, 4) if m <= _FEW // 4 else _Tile(64, 64, 32, 2, 8)
    if m <= 16:
        return _Tile(16, 64, 128, 6, 4)
    if m <= _FEW:
        return _Tile(32 if m <= 32 else 64, 64, 128, 5, 4)
    return _Tile(128, 128, 64, 4, 8)
