"""Experts of few rows: matrices times vectors, each program with an expert that a row uses.

The products of a row are summed in an order that depends on the shapes of the matrices and on
`top_k` only, so a row's result does not depend on the other rows.
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

BLOCK = tl.constexpr(128)  # columns of a row with one scale


class FewShape(NamedTuple):
    """A program's rows of the matrix, its columns in one load, loads in flight (0: all of them),
    warps."""

    rows: int
    cols: int
    stages: int
    warps: int


@triton.jit
def gate(a, b, limit, KIND: tl.constexpr, LIMIT: tl.constexpr):
    """act(a) * b, float32; LIMIT: see `Ops.experts`."""
    if LIMIT:
        a = tl.minimum(a, limit)
        b = tl.minimum(tl.maximum(b, -limit), limit) + 1.0
    return activate(a, KIND) * b


@triton.jit
def added(
    acc, product, scales, rows, k, ok, K: tl.constexpr, BK: tl.constexpr, SCALED: tl.constexpr
):
    """acc plus the products [BN, BK] with columns k .. of rows of a matrix. SCALED: the matrix has
    a scale for each 128 columns of a row, and acc is [BN, BK / 128]."""
    if SCALED:
        block = k // BLOCK + tl.arange(0, BK // BLOCK)
        mask = ok[:, None] & (block < K // BLOCK)[None, :]
        s = tl.load(scales + rows[:, None] * (K // BLOCK) + block[None, :], mask=mask, other=0.0)
        parts = tl.reshape(product, [product.shape[0], BK // BLOCK, BLOCK])
        acc += tl.sum(parts, 2) * s
    else:
        acc += product
    return acc


@triton.jit
def _up(
    x, ids, up, scales, bias, h, width, limit, K: tl.constexpr, TOP: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, GATED: tl.constexpr, KIND: tl.constexpr,
    LIMIT: tl.constexpr, BIAS: tl.constexpr, SCALED: tl.constexpr, EVICT: tl.constexpr,
    STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """h[pair] = act(up_e x + bias_e) of BN columns; a pair is a row and one of its experts.
    SCALED: see `added`."""
    if PDL:
        gdc_launch_dependents()
    pair = tl.program_id(0)
    rows, cols = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
    ok = rows < width
    if PDL:
        gdc_wait()
    e = tl.load(ids + pair).to(tl.int64)
    first = e * width
    if GATED:
        first *= 2
    wp = up + (first + rows)[:, None] * K + cols[None, :]
    xp = x + (pair // TOP).to(tl.int64) * K + cols
    ACC: tl.constexpr = BK // BLOCK if SCALED else BK
    acc = tl.zeros([BN, ACC], tl.float32)
    ups = tl.zeros([BN, ACC], tl.float32)
    for k in tl.range(0, K, BK, num_stages=STAGES):
        if K % BK == 0:
            mask = ok[:, None]
            a = tl.load(xp + k).to(tl.float32)
        else:
            inside = k + cols < K
            mask = ok[:, None] & inside[None, :]
            a = tl.load(xp + k, mask=inside, other=0.0).to(tl.float32)
        w = tl.load(wp + k, mask=mask, other=0.0, eviction_policy=EVICT)
        if GATED:
            u = tl.load(wp + width * K + k, mask=mask, other=0.0, eviction_policy=EVICT)
            more = u.to(tl.float32) * a[None, :]
            ups = added(ups, more, scales, first + width + rows, k, ok, K, BK, SCALED)
        more = w.to(tl.float32) * a[None, :]
        acc = added(acc, more, scales, first + rows, k, ok, K, BK, SCALED)
    y = tl.sum(acc, 1)
    if BIAS:
        y += tl.load(bias + first + rows, mask=ok, other=0.0)
    if GATED:
        z = tl.sum(ups, 1)
        if BIAS:
            z += tl.load(bias + first + width + rows, mask=ok, other=0.0)
        y = gate(y, z, limit, KIND, LIMIT)
    else:
        y = activate(y, KIND)
    tl.store(h + pair.to(tl.int64) * width + rows, y.to(h.dtype.element_ty), mask=ok)


@triton.jit
def _more(
    h, ids, weights, down, scales, bias, dim, row, rows, cols, ok, step, acc, offset,
    K: tl.constexpr, TOP: tl.constexpr, BK: tl.constexpr, WEIGHTS: tl.constexpr,
    BIAS: tl.constexpr, SCALED: tl.constexpr, EVICT: tl.constexpr,
):  # fmt: skip
    """The sums of `_down` with the products of one more step."""
    PER: tl.constexpr = (K + BK - 1) // BK  # steps of an expert
    pair = row * TOP + step // PER
    c = step % PER * BK + cols
    e = tl.load(ids + pair).to(tl.int64)
    weight = 1.0
    if WEIGHTS:
        weight = tl.load(weights + pair)
    wp = down + (e * dim + rows)[:, None] * K + c[None, :]
    hp = h + pair.to(tl.int64) * K + c
    if K % BK == 0:
        w = tl.load(wp, mask=ok[:, None], other=0.0, eviction_policy=EVICT)
        a = tl.load(hp).to(tl.float32)
    else:
        inside = c < K
        mask = ok[:, None] & inside[None, :]
        w = tl.load(wp, mask=mask, other=0.0, eviction_policy=EVICT)
        a = tl.load(hp, mask=inside, other=0.0).to(tl.float32)
    more = w.to(tl.float32) * (a * weight)[None, :]
    acc = added(acc, more, scales, e * dim + rows, step % PER * BK, ok, K, BK, SCALED)
    if BIAS:
        b = tl.load(bias + e * dim + rows, mask=ok, other=0.0)
        offset += tl.where(step % PER == 0, b * weight, 0.0)
    return acc, offset


@triton.jit
def _down(
    h, ids, weights, down, scales, bias, residual, out, dim, K: tl.constexpr, TOP: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, WEIGHTS: tl.constexpr, BIAS: tl.constexpr,
    RESIDUAL: tl.constexpr, SCALED: tl.constexpr, EVICT: tl.constexpr, STAGES: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """out[row] = sum over its experts of weight * (down_e h + bias_e), BN columns; every product is
    multiplied by its expert's weight, so there is one sum over all of them. RESIDUAL is added."""
    if PDL:
        gdc_launch_dependents()
    row = tl.program_id(0)
    rows, cols = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
    ok = rows < dim
    if PDL:
        gdc_wait()
    acc = tl.zeros([BN, BK // BLOCK if SCALED else BK], tl.float32)
    offset = tl.zeros([BN], tl.float32)
    STEPS: tl.constexpr = TOP * ((K + BK - 1) // BK)
    if STAGES == 0:
        for step in tl.static_range(STEPS):
            acc, offset = _more(
                h, ids, weights, down, scales, bias, dim, row, rows, cols, ok, step, acc, offset, K,
                TOP, BK, WEIGHTS, BIAS, SCALED, EVICT,
            )  # fmt: skip
    else:
        for step in tl.range(0, STEPS, num_stages=STAGES):
            acc, offset = _more(
                h, ids, weights, down, scales, bias, dim, row, rows, cols, ok, step, acc, offset, K,
                TOP, BK, WEIGHTS, BIAS, SCALED, EVICT,
            )  # fmt: skip
    y = tl.sum(acc, 1) + offset
    if RESIDUAL:
        y += tl.load(residual + row.to(tl.int64) * dim + rows, mask=ok, other=0.0).to(tl.float32)
    tl.store(out + row.to(tl.int64) * dim + rows, y.to(out.dtype.element_ty), mask=ok)


def few(
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
    """See `experts`. Reads a matrix once for each row that uses it (again from the L2 cache)."""
    n, top = ids.shape
    dim, width = down.shape[1:]
    gated = up.shape[1] != width
    h = torch.empty((n * top, width), dtype=x.dtype, device=x.device)
    out = torch.empty((n, dim), dtype=x.dtype, device=x.device)
    evict = "evict_first" if n == 1 else ""  # several rows may use an expert
    s = _first_shape(x.shape[1], 2 if gated else 1, up.element_size(), top * width)
    _up[(n * top, triton.cdiv(width, s.rows))](
        x, ids, up, up_scales, up_bias, h, width, limit or 0.0, K=x.shape[1], TOP=top, BN=s.rows,
        BK=s.cols, GATED=gated, KIND=kind, LIMIT=limit is not None, BIAS=up_bias is not None,
        SCALED=up_scales is not None, EVICT=evict, STAGES=s.stages, num_warps=s.warps,
        **dependent(pdl),
    )  # fmt: skip
    s = _second_shape(width, down.element_size(), dim, top)
    _down[(n, triton.cdiv(dim, s.rows))](
        h, ids, weights, down, down_scales, down_bias, residual, out, dim, K=width, TOP=top,
        BN=s.rows, BK=s.cols, WEIGHTS=weights is not None, BIAS=down_bias is not None,
        RESIDUAL=residual is not None, SCALED=down_scales is not None, EVICT=evict,
        STAGES=s.stages, num_warps=s.warps, **dependent(pdl),
    )  # fmt: skip
    return out


_AT_ONCE = 8  # loads that a program has registers for


def _first_shape(cols: int, matrices: int, size: int, results: int) -> FewShape:
    """About 16 KiB of weights in one load of a program, or less if one row would then have few
    programs. results: of one row. The same for any number of rows, as the order of sums is."""
    wide = min(power_of_two(cols), 2048 // size)
    rows = max(1, min(16, 16384 // (wide * size * matrices)))
    while rows > 1 and results // rows < 512:
        rows //= 2
    return FewShape(rows, wide, 3 if matrices == 2 else 4, 4)


def _second_shape(cols: int, size: int, results: int, top: int) -> FewShape:
    """The same, with all loads of a program in flight at once where there are few."""
    s = _first_shape(cols, 1, size, results)
    return s._replace(stages=0) if top * triton.cdiv(cols, s.cols) <= _AT_ONCE else s
