"""Packed weights times a few rows: int8 activations, four products an instruction.

A program computes 32 rows of the matrix (or fewer) for up to eight rows of activations, over whole
rows: it can then do what follows, up to quantizing its result for the next product. A row's sums
depend on its matrix (format, shape), not on how many rows are computed together.
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
from rbee_worker.ops.cuda.kernels.packed.chunks import load_words, unpack, weigh
from rbee_worker.ops.cuda.kernels.packed.planes import CHUNK, ROWS, WORDS, PackedPart
from rbee_worker.ops.cuda.kernels.packed.product_shapes import ProductShape, product_shape
from rbee_worker.ops.cuda.kernels.packed.quantize import BLOCK, Quantized, rounded
from rbee_worker.ops.operands import Activation

MOST_ROWS = 8  # rows of activations that a program computes


class Next(NamedTuple):
    """Where a product quantizes its result for the next product.

    to: memory from `empty_quantized`. weight: float32 [cols of `to`], of the RMS norm between the
    two products, or None. column: the result's first column in `to`, a multiple of 32.
    """

    to: Quantized
    weight: Tensor | None = None
    column: int = 0


@triton.jit
def _load(data, block, c, number, R: tl.constexpr, CHUNKS: tl.constexpr, W: tl.constexpr,
          BLOCK: tl.constexpr):  # fmt: skip
    """The words of chunks c of rows number * R to number * R + R - 1, and as the last one their
    block's word (of formats that have one)."""
    r = number % (32 // R) * R + tl.arange(0, R)
    group = (number // (32 // R)).to(tl.int64)
    ok = (c < CHUNKS)[:, None]
    start = data + group * (CHUNKS * W * 32)
    words = load_words(start + (c * (W * 32))[:, None] + r[None, :], ok, W)
    if BLOCK:
        start = block + group * (CHUNKS // 4 * 32)
        p = start + (c // 4 * 32)[:, None] + r[None, :]
        words = words + (tl.load(p, mask=ok, other=0),)
    return words


@triton.jit
def _add(acc, words, x8, scales, sums, n0, N, c, ROWS_N: tl.constexpr, CHUNKS: tl.constexpr,
         W: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """acc, ROWS_N tensors [chunks, R], plus the products of the words with each row of x."""
    values = unpack(words, FORMAT)
    ok = c < CHUNKS
    of_block = words[W if BLOCK else 0]
    out = acc
    for j in tl.static_range(ROWS_N):
        n = tl.minimum(n0 + j, N - 1)
        y = weigh(words, values, of_block, x8 + n * (CHUNKS * 8), scales + n * CHUNKS,
                  sums + n * CHUNKS, c, ok, FORMAT, BLOCK)  # fmt: skip
        if j == 0:
            out = (acc[0] + y,)
        else:
            out = out + (acc[j] + y,)
    return out


@triton.jit
def _matrix(t, data, block, x8, scales, sums, n0, N, number, stop, ROWS_N: tl.constexpr,
            CHUNKS: tl.constexpr, W: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr,
            R: tl.constexpr, C: tl.constexpr, DOUBLE: tl.constexpr):  # fmt: skip
    """ROWS_N tensors [C, R] of partial sums over whole rows. With few rows of activations, t has
    the first words; DOUBLE: the next words are loaded before the present ones are used. With more,
    the arithmetic takes longer than the loads, and registers are scarce: the words are loaded when
    they are used, in a loop that is not unrolled, as its end is no constant."""
    c = tl.arange(0, C)
    acc = (tl.zeros([C, R], tl.float32),) * ROWS_N
    if ROWS_N > 2:
        for c0 in range(0, stop, C):
            at = c0 + c
            words = _load(data, block, at, number, R, CHUNKS, W, BLOCK)
            acc = _add(acc, words, x8, scales, sums, n0, N, at, ROWS_N, CHUNKS, W, FORMAT, BLOCK)
    else:
        for c0 in range(C, CHUNKS, C):
            at = c0 - C + c
            if DOUBLE:
                t2 = _load(data, block, c0 + c, number, R, CHUNKS, W, BLOCK)
            acc = _add(acc, t, x8, scales, sums, n0, N, at, ROWS_N, CHUNKS, W, FORMAT, BLOCK)
            if not DOUBLE:
                t2 = _load(data, block, c0 + c, number, R, CHUNKS, W, BLOCK)
            t = t2
        at = (CHUNKS - 1) // C * C + c
        acc = _add(acc, t, x8, scales, sums, n0, N, at, ROWS_N, CHUNKS, W, FORMAT, BLOCK)
    return acc


@triton.jit
def _pair(t, u, data, block, up_data, up_block, x8, scales, sums, n0, N, number,
          ROWS_N: tl.constexpr, CHUNKS: tl.constexpr, W: tl.constexpr, FORMAT: tl.constexpr,
          BLOCK: tl.constexpr, R: tl.constexpr, C: tl.constexpr):  # fmt: skip
    """`_matrix` for two matrices at a time: those of the second one follow."""
    c = tl.arange(0, C)
    acc = (tl.zeros([C, R], tl.float32),) * ROWS_N
    ups = (tl.zeros([C, R], tl.float32),) * ROWS_N
    for c0 in range(C, CHUNKS, C):
        at = c0 - C + c
        acc = _add(acc, t, x8, scales, sums, n0, N, at, ROWS_N, CHUNKS, W, FORMAT, BLOCK)
        t = _load(data, block, c0 + c, number, R, CHUNKS, W, BLOCK)
        ups = _add(ups, u, x8, scales, sums, n0, N, at, ROWS_N, CHUNKS, W, FORMAT, BLOCK)
        u = _load(up_data, up_block, c0 + c, number, R, CHUNKS, W, BLOCK)
    at = (CHUNKS - 1) // C * C + c
    acc = _add(acc, t, x8, scales, sums, n0, N, at, ROWS_N, CHUNKS, W, FORMAT, BLOCK)
    return acc + _add(ups, u, x8, scales, sums, n0, N, at, ROWS_N, CHUNKS, W, FORMAT, BLOCK)


@triton.jit
def _totals(acc, COUNT: tl.constexpr):
    """COUNT tensors [R] of [C, R]."""
    out = (tl.sum(acc[0], 0),)
    for j in tl.static_range(1, COUNT):
        out = out + (tl.sum(acc[j], 0),)
    return out


# One compiled kernel for all sizes; a single row of activations has its own.
@triton.jit(
    do_not_specialize=["rows", "cols", "stop", "out_stride", "residual_stride", "first_after"],
    do_not_specialize_on_alignment=["N"],
)
def _product(
    x8, scales, sums, squares, data, block, up_data, up_block, bias, up_bias, residual, out,
    weight, values_after, scales_after, sums_after, squares_after,
    N, rows, cols, stop, eps, out_stride, residual_stride, first_after,
    CHUNKS: tl.constexpr, W: tl.constexpr, FORMAT: tl.constexpr, BLOCK: tl.constexpr,
    ROWS_N: tl.constexpr, R: tl.constexpr, C: tl.constexpr, DOUBLE: tl.constexpr,
    NORM: tl.constexpr, PARTS: tl.constexpr, GATED: tl.constexpr, KIND: tl.constexpr,
    BIAS: tl.constexpr, RESIDUAL: tl.constexpr, STORE: tl.constexpr, AFTER: tl.constexpr,
    WEIGHT: tl.constexpr, SQUARES: tl.constexpr, WIDTH: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """R rows of the matrix, ROWS_N of activations, C chunks at a time. The first words are loaded
    before the wait (but see `_matrix`)."""
    if PDL:
        gdc_launch_dependents()
    number = tl.program_id(0)
    n0 = tl.program_id(1) * ROWS_N
    c = tl.arange(0, C)
    t = (c,)
    if ROWS_N <= 2:
        t = _load(data, block, c, number, R, CHUNKS, W, BLOCK)
        if GATED:
            u = _load(up_data, up_block, c, number, R, CHUNKS, W, BLOCK)
    if PDL:
        gdc_wait()
    if GATED and ROWS_N <= 2:
        both = _pair(t, u, data, block, up_data, up_block, x8, scales, sums, n0, N, number,
                     ROWS_N, CHUNKS, W, FORMAT, BLOCK, R, C)  # fmt: skip
        y_of = _totals(both, 2 * ROWS_N)
    else:
        acc = _matrix(t, data, block, x8, scales, sums, n0, N, number, stop,
                      ROWS_N, CHUNKS, W, FORMAT, BLOCK, R, C, DOUBLE)  # fmt: skip
        y_of = _totals(acc, ROWS_N)
        if GATED:
            ups = _matrix(t, up_data, up_block, x8, scales, sums, n0, N, number, stop,
                          ROWS_N, CHUNKS, W, FORMAT, BLOCK, R, C, DOUBLE)  # fmt: skip
            y_of = y_of + _totals(ups, ROWS_N)

    r = number * R + tl.arange(0, R)
    for j in tl.static_range(ROWS_N):
        n = tl.minimum(n0 + j, N - 1)
        real = (r < rows) & (n0 + j < N)
        y = y_of[j]
        if GATED:
            up = y_of[ROWS_N + j]
        if NORM:
            p = tl.arange(0, PARTS)
            square = tl.load(squares + n * (CHUNKS * 2) + p, mask=p < CHUNKS * 2, other=0.0)
            factor = tl.rsqrt(tl.sum(square, 0) / cols + eps)
            y = y * factor
            if GATED:
                up = up * factor
        if BIAS:
            y += tl.load(bias + r, mask=r < rows, other=0.0)
            if GATED:
                up += tl.load(up_bias + r, mask=r < rows, other=0.0)
        y = activate(y, KIND)
        if GATED:
            y = y * up
        if RESIDUAL:
            p = residual + n.to(tl.int64) * residual_stride + r
            y += tl.load(p, mask=real, other=0.0).to(tl.float32)
        if STORE:
            y = y.to(out.dtype.element_ty)
            tl.store(out + n.to(tl.int64) * out_stride + r, y, mask=real)
            y = y.to(tl.float32)
        if AFTER:
            z = tl.where(r < rows, y, 0.0)[None, :]
            b = first_after + number + tl.arange(0, 1)
            inside = (b < WIDTH // 32) & (n0 + j < N)
            at = n * (WIDTH // 32) + b
            if SQUARES:
                tl.store(squares_after + at, tl.sum(z * z, 1), mask=inside)
            if WEIGHT:
                k = first_after * 32 + r
                z = z * tl.load(weight + k, mask=r < rows, other=0.0).to(tl.float32)[None, :]
            q, scale, total = rounded(z)
            tl.store(values_after + at[:, None] * 32 + tl.arange(0, 32)[None, :], q.to(tl.int8),
                     mask=inside[:, None])  # fmt: skip
            tl.store(scales_after + at, scale, mask=inside)
            tl.store(sums_after + at, total, mask=inside)


def packed_product(
    x: Quantized,
    held: PackedPart,
    out: Tensor | None = None,
    *,
    up: PackedPart | None = None,
    gated: Activation | None = None,
    act: str = "none",
    bias: Tensor | None = None,
    up_bias: Tensor | None = None,
    residual: Tensor | None = None,
    after: Next | None = None,
    shape: ProductShape | None = None,
    pdl: bool = False,
) -> None:
    """x [N, cols] times the transposed part [rows, cols], written to `out` [N, rows], which may be
    a column slice of a larger tensor, or only to `after`.

    up, gated: `held` has the gates, `up` the same number of rows in the same format, and the result
    is act(gate) * up. act: applied otherwise. bias, up_bias: float32 [rows], added to the products.
    residual [N, rows] is added last; it may be `out` itself. after: the result, as rounded to out's
    type if there is an `out`, is quantized too. Rows of x are computed eight at a time: more of
    them read the weights again. shape: instead of the table's.
    """
    n, rows, cols = x.values.shape[0], held.rows, held.cols
    assert x.cols == cols
    assert (up is None) == (gated is None)
    assert up is None or (up.format, up.rows, up.cols) == (held.format, rows, cols)
    assert out is not None or after is not None
    if n == 0 or rows == 0:
        return
    form, chunks = held.format, held.data.shape[1]
    if shape is None:
        shape = product_shape(form, rows, chunks, gated is not None, after is not None)
    assert after is None or (shape.rows == ROWS and after.column % BLOCK == 0)
    assert x.values.shape[1] == chunks * CHUNK
    rows_n = min(MOST_ROWS, power_of_two(n))
    to = None if after is None else after.to
    _product[(triton.cdiv(rows, shape.rows), triton.cdiv(n, rows_n))](
        x.values.view(torch.int64), x.scale.view(torch.int64), x.sum.view(torch.int64), x.squares,
        held.data, held.block, None if up is None else up.data, None if up is None else up.block,
        bias, up_bias, residual, out, None if after is None else after.weight,
        None if to is None else to.values, None if to is None else to.scale,
        None if to is None else to.sum, None if to is None else to.squares,
        n, rows, cols, chunks, x.eps, 0 if out is None else out.stride(0),
        0 if residual is None else residual.stride(0),
        0 if after is None else after.column // BLOCK,
        CHUNKS=chunks, W=WORDS[form], FORMAT=form, BLOCK=held.block is not None, ROWS_N=rows_n,
        R=shape.rows, C=shape.chunks, DOUBLE=shape.double,
        NORM=x.squares is not None, PARTS=power_of_two(chunks * 2), GATED=gated is not None,
        KIND=gated or act, BIAS=bias is not None, RESIDUAL=residual is not None,
        STORE=out is not None, AFTER=after is not None,
        WEIGHT=after is not None and after.weight is not None,
        SQUARES=to is not None and to.squares is not None,
        WIDTH=0 if to is None else to.values.shape[1], num_warps=shape.warps,
        maxnreg=shape.registers or None, **dependent(pdl),
    )  # fmt: skip
