"""A matrix times a few rows: out = x W^T for 2 to 64 rows, on tensor cores.

The weight tile is the first operand of the product (out^T = W x^T), so that as few as 8 rows fill
an instruction. The order of a row's sum depends on the matrix's shape and on the padded number of
rows, not on the other rows.
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
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two, precision
from rbee_worker.ops.cuda.kernels.workspace import Workspace


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


@triton.jit
def _skinny(
    x, w, scales, bias, residual, out, partial, arrived, M, N, chunk,
    K: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, GATED: tl.constexpr, KIND: tl.constexpr,
    EVEN: tl.constexpr, BULK: tl.constexpr, SCALED: tl.constexpr, STAGES: tl.constexpr,
    PRECISION: tl.constexpr, PDL: tl.constexpr, EARLY: tl.constexpr,
):  # fmt: skip
    """BULK: x and w are descriptors, which give zeros beyond the edges."""
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
    if GATED:
        ups = tl.zeros([BN, BM], tl.float32)
    if PDL:
        gdc_wait()
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
        acc = tl.dot(a.to(xt.dtype), xt, acc, input_precision=PRECISION)
        if GATED:
            if BULK:
                u = w.load([N + tile * BN, k])
            elif EVEN:
                u = tl.load(vp + k, eviction_policy="evict_first")
            else:
                u = tl.load(vp + k, mask=in_rows[:, None] & ok[None, :], other=0.0)
            ups = tl.dot(u.to(xt.dtype), xt, ups, input_precision=PRECISION)
    if PDL and not EARLY:
        gdc_launch_dependents()
    op = m.to(tl.int64)[None, :] * N + rows[:, None]
    ok_out = in_m & in_rows[:, None]
    if SPLIT > 1:
        at = tl.arange(0, BN)[:, None] * BM + m[None, :]
        tl.store(partial + (tile * SPLIT + part) * BN * BM + at, acc)
        tl.debug_barrier()
        if tl.atomic_add(arrived + tile, 1, sem="acq_rel", scope="gpu") == SPLIT - 1:
            tl.debug_barrier()
            acc = tl.zeros([BN, BM], tl.float32)
            for i in tl.static_range(SPLIT):
                place = partial + (tile * SPLIT + i) * BN * BM + at
                acc += tl.load(place, cache_modifier=".cg")
            if SCALED:
                acc = acc * tl.load(scales + rows, mask=in_rows, other=0.0)[:, None]
            if BIAS:
                acc += tl.load(bias + rows, mask=in_rows, other=0.0)[:, None]
            acc = activate(acc, KIND)
            if RESIDUAL:
                acc += tl.load(residual + op, mask=ok_out, other=0.0).to(tl.float32)
            tl.store(out + op, acc.to(out.dtype.element_ty), mask=ok_out)
            tl.store(arrived + tile, 0)
    else:
        if SCALED:
            acc = acc * tl.load(scales + rows, mask=in_rows, other=0.0)[:, None]
            if GATED:
                ups = ups * tl.load(scales + N + rows, mask=in_rows, other=0.0)[:, None]
        if BIAS:
            acc += tl.load(bias + rows, mask=in_rows, other=0.0)[:, None]
            if GATED:
                ups += tl.load(bias + N + rows, mask=in_rows, other=0.0)[:, None]
        acc = activate(acc, KIND)
        if GATED:
            acc = acc * ups
        if RESIDUAL:
            acc += tl.load(residual + op, mask=ok_out, other=0.0).to(tl.float32)
        tl.store(out + op, acc.to(out.dtype.element_ty), mask=ok_out)


def skinny(
    x: Tensor,
    weight: Tensor,
    workspace: Workspace,
    *,
    scales: Tensor | None = None,
    bias: Tensor | None = None,
    gated: str | None = None,
    act: str = "none",
    residual: Tensor | None = None,
    form: torch.dtype | None = None,
    pdl: bool = False,
    shape: SkinnyShape | None = None,
) -> Tensor:
    """x [M, K] times weight [rows, K] transposed, M from 1 to 64: [M, rows]; as `gemv`.

    shape: instead of the table's choice.
    """
    m, k = x.shape
    rows = weight.shape[0]
    n = rows // 2 if gated else rows
    out = torch.empty((m, n), dtype=form or x.dtype, device=x.device)
    shape = shape or _shape(m, n, k, gated is not None)
    tiles, bm = triton.cdiv(n, shape.rows), max(8, power_of_two(m))
    chunk = triton.cdiv(triton.cdiv(k, shape.cols), shape.split) * shape.cols
    split = triton.cdiv(k, chunk)
    partial = workspace.floats(tiles * split * shape.rows * bm) if split > 1 else None
    bulk = shape.bulk and k * weight.element_size() % 16 == 0
    left: Any = TensorDescriptor(x, [m, k], [k, 1], [bm, shape.cols]) if bulk else x
    right: Any = weight
    if bulk:
        right = TensorDescriptor(weight, [rows, k], [k, 1], [shape.rows, shape.cols])
    _skinny[(tiles, split)](
        left, right, scales, bias, residual, out, partial, workspace.counters(tiles), m, n, chunk,
        K=k, BM=bm, BN=shape.rows, BK=shape.cols, SPLIT=split, BIAS=bias is not None,
        RESIDUAL=residual is not None, GATED=gated is not None, KIND=gated or act,
        EVEN=k % shape.cols == 0 and n % shape.rows == 0, BULK=bulk,
        SCALED=scales is not None, STAGES=shape.stages, PRECISION=precision(x.dtype),
        EARLY=shape.early, num_warps=shape.warps, **dependent(pdl),
    )  # fmt: skip
    return out


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
_PROGRAMS = 256  # enough to keep every multiprocessor busy


def _shape(m: int, n: int, k: int, gated: bool) -> SkinnyShape:
    known = _KNOWN.get((8 if m <= 8 else 64, n, k))
    if known is not None:
        return known
    tiles = triton.cdiv(n, 64)
    split = 1 if gated else max(1, min(_PROGRAMS // tiles, triton.cdiv(k, 512)))
    return SkinnyShape(64, 128 if k % 128 == 0 else 64, split, 3, 4, early=m <= 8)
