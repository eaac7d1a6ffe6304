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
from rbee_worker.ops.cuda.kernels.packed.planes import CHUNK, ROWS, WORDS, PackedPart
from rbee_worker.ops.cuda.kernels.packed.product_shapes import ProductShape, product_shape
from rbee_worker.ops.cuda.kernels.packed.quantize import BLOCK, Quantized, rounded, rows_together
from rbee_worker.ops.cuda.kernels.packed.row_sums import (
    load_chunks,
    matrix_sums,
    pair_sums,
    totals,
)
from rbee_worker.ops.operands import Activation


class Next(NamedTuple):
    """Where a product quantizes its result for the next product.

    to: memory from `empty_quantized`. weight: float32 [cols of `to`], of the RMS norm between the
    two products, or None. column: the result's first column in `to`, a multiple of 32.
    """

    to: Quantized
    weight: Tensor | None = None
    column: int = 0


@triton.jit
def _quantize(z, number, n, N, values, scales, sums, WIDTH: tl.constexpr):
    """Block `number` of rows n, z [ROWS_N, 32], for the next product."""
    at = n * (WIDTH // 32) + number
    real = (number < WIDTH // 32) & (n < N)
    q, scale, total = rounded(z)
    places = at[:, None] * 32 + tl.arange(0, 32)[None, :]
    tl.store(values + places, q.to(tl.int8), mask=real[:, None])
    tl.store(scales + at, scale, mask=real)
    tl.store(sums + at, total, mask=real)


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
    before the wait (but see `matrix_sums`)."""
    if PDL:
        gdc_launch_dependents()
    number = tl.program_id(0)
    n0 = tl.program_id(1) * ROWS_N
    x8 += n0 * (CHUNKS * 8)  # the memory has whole groups of rows, see `empty_quantized`
    scales += n0 * CHUNKS
    sums += n0 * CHUNKS
    c = tl.arange(0, C)
    r = number * R + tl.arange(0, R)
    n = n0 + tl.arange(0, ROWS_N)
    t = (c,)
    if ROWS_N <= 2:
        t = load_chunks(data, block, c, number, R, C, CHUNKS, W, BLOCK)
        if GATED:
            u = load_chunks(up_data, up_block, c, number, R, C, CHUNKS, W, BLOCK)
    if BIAS:
        b = tl.load(bias + r, mask=r < rows, other=0.0)[:, None]
        if GATED:
            up_b = tl.load(up_bias + r, mask=r < rows, other=0.0)[:, None]
    if WEIGHT:
        w = tl.load(weight + first_after * 32 + r, mask=r < rows, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    real = (r < rows)[:, None] & (n < N)[None, :]
    if NORM:
        p = tl.arange(0, PARTS)[None, :]
        square = tl.load(squares + n[:, None] * (CHUNKS * 2) + p, mask=p < CHUNKS * 2, other=0.0)
    if RESIDUAL:
        places = n.to(tl.int64)[None, :] * residual_stride + r[:, None]
        if ROWS_N <= 2:  # with more, registers are scarce
            added = tl.load(residual + places, mask=real, other=0.0)
    if GATED and ROWS_N <= 2:
        both = pair_sums(t, u, data, block, up_data, up_block, x8, scales, sums, number,
                         ROWS_N, CHUNKS, W, FORMAT, BLOCK, R, C)  # fmt: skip
        y = totals(both, R, 0, ROWS_N)
        up = totals(both, R, ROWS_N, ROWS_N)
    else:
        acc = matrix_sums(t, data, block, x8, scales, sums, number, stop,
                          ROWS_N, CHUNKS, W, FORMAT, BLOCK, R, C, DOUBLE)  # fmt: skip
        y = totals(acc, R, 0, ROWS_N)
        if GATED:
            ups = matrix_sums(t, up_data, up_block, x8, scales, sums, number, stop,
                              ROWS_N, CHUNKS, W, FORMAT, BLOCK, R, C, DOUBLE)  # fmt: skip
            up = totals(ups, R, 0, ROWS_N)

    if ROWS_N > 2:  # each thread has copies of many sums: a gather in place shares them out
        each = tl.broadcast_to(tl.arange(0, R)[:, None], (R, ROWS_N))
        y = tl.gather(y, each, 0)
        if GATED:
            up = tl.gather(up, each, 0)
    if NORM:
        factor = tl.rsqrt(tl.sum(square, 1) / cols + eps)[None, :]
        y = y * factor
        if GATED:
            up = up * factor
    if BIAS:
        y += b
        if GATED:
            up += up_b
    y = activate(y, KIND)
    if GATED:
        y = y * up
    if RESIDUAL:
        if ROWS_N > 2:
            added = tl.load(residual + places, mask=real, other=0.0)
        y += added.to(tl.float32)
    if STORE:
        y = y.to(out.dtype.element_ty)
        tl.store(out + n.to(tl.int64)[None, :] * out_stride + r[:, None], y, mask=real)
        y = y.to(tl.float32)
    if AFTER:
        z = tl.trans(tl.where((r < rows)[:, None], y, 0.0))
        if SQUARES:
            real = (first_after + number < WIDTH // 32) & (n < N)
            at = n * (WIDTH // 32) + first_after + number
            tl.store(squares_after + at, tl.sum(z * z, 1), mask=real)
        if WEIGHT:
            z = z * w[None, :]
        _quantize(z, first_after + number, n, N, values_after, scales_after, sums_after, WIDTH)


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
    rows_n = rows_together(n)
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
        maxnreg=(shape.registers or None) if rows_n <= 2 else None, **dependent(pdl),
    )  # fmt: skip
