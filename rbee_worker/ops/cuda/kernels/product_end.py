"""The end of a tile's product: its parts together, and what follows the product."""

from __future__ import annotations

import triton
import triton.language as tl

from rbee_worker.ops.cuda.kernels.activations import activate


@triton.jit
def is_last_part(
    acc, partial, arrived, tile, part, SPLIT: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr
):
    """Keep a part of a tile's sums [BN, BM]: are the parts of all SPLIT programs there now? Then
    the caller ends with setting the tile's counter back to zero."""
    at = tl.arange(0, BN)[:, None] * BM + tl.arange(0, BM)[None, :]
    tl.store(partial + (tile * SPLIT + part) * BN * BM + at, acc)
    tl.debug_barrier()
    last = tl.atomic_add(arrived + tile, 1, sem="acq_rel", scope="gpu") == SPLIT - 1
    tl.debug_barrier()
    return last


@triton.jit
def all_parts(partial, tile, SPLIT: tl.constexpr, BN: tl.constexpr, BM: tl.constexpr):
    """The sum of a tile's parts, in their order."""
    at = tl.arange(0, BN)[:, None] * BM + tl.arange(0, BM)[None, :]
    acc = tl.zeros([BN, BM], tl.float32)
    for i in tl.static_range(SPLIT):
        acc += tl.load(partial + (tile * SPLIT + i) * BN * BM + at, cache_modifier=".cg")
    return acc


@triton.jit
def finish(
    acc, ups, scales, bias, residual, out, rows, m, M, N, next_weight, weighted, squares, tile,
    SCALED: tl.constexpr, BIAS: tl.constexpr, RESIDUAL: tl.constexpr, GATED: tl.constexpr,
    KIND: tl.constexpr, AHEAD: tl.constexpr, BM: tl.constexpr,
):  # fmt: skip
    """Store acc [rows, m], transposed, to out [M, N], after factors on the matrix's rows, a bias,
    an activation (GATED: times ups, whose rows of the matrix come N later), and a sum with the
    residual. AHEAD: see `skinny.Weighted`."""
    in_rows = rows < N
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
    at = m.to(tl.int64)[None, :] * N + rows[:, None]
    ok = (m < M)[None, :] & in_rows[:, None]
    if RESIDUAL:
        acc += tl.load(residual + at, mask=ok, other=0.0).to(tl.float32)
    y = acc.to(out.dtype.element_ty)
    tl.store(out + at, y, mask=ok)
    if AHEAD:
        z = tl.where(ok, y.to(tl.float32), 0.0)
        tl.store(squares + tile * BM + m, tl.sum(z * z, 0))
        z = z * tl.load(next_weight + rows, mask=in_rows, other=0.0)[:, None]
        tl.store(weighted + at, z.to(weighted.dtype.element_ty), mask=ok)
