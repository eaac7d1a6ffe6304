"""The inverse of a unit lower triangular matrix of 64 rows, for delta rules by chunks.

Blocks of 16 on the diagonal by forward substitution, those below from them: with the matrix
1 + A, the inverse's block (i, j) is -(1 + A)_ii^-1 times the sum of A_ik T_kj over j <= k < i.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent
from rbee_worker.ops.cuda.kernels.recurrence.chunks import ROWS, Chunks, begin
from rbee_worker.ops.cuda.kernels.recurrence.exact import way


@triton.jit
def _of(at, row, k, j, rows, ROWS: tl.constexpr):
    """Number (k, j) of each lane's block on the diagonal; row: the first one of its block."""
    return tl.load(at + (row + k) * ROWS + row + j, mask=row + k < rows, other=0.0)


@triton.jit
def _less(at, row, k, j, rows, x0, x1, x2, x3, r0, r1, r2, r3, ROWS: tl.constexpr):
    """Rows x from k on without what rows r from j on give them."""
    x0 -= _of(at, row, k, j, rows, ROWS) * r0
    x1 -= _of(at, row, k + 1, j, rows, ROWS) * r0
    x2 -= _of(at, row, k + 2, j, rows, ROWS) * r0
    x3 -= _of(at, row, k + 3, j, rows, ROWS) * r0
    x0 -= _of(at, row, k, j + 1, rows, ROWS) * r1
    x1 -= _of(at, row, k + 1, j + 1, rows, ROWS) * r1
    x2 -= _of(at, row, k + 2, j + 1, rows, ROWS) * r1
    x3 -= _of(at, row, k + 3, j + 1, rows, ROWS) * r1
    x0 -= _of(at, row, k, j + 2, rows, ROWS) * r2
    x1 -= _of(at, row, k + 1, j + 2, rows, ROWS) * r2
    x2 -= _of(at, row, k + 2, j + 2, rows, ROWS) * r2
    x3 -= _of(at, row, k + 3, j + 2, rows, ROWS) * r2
    x0 -= _of(at, row, k, j + 3, rows, ROWS) * r3
    x1 -= _of(at, row, k + 1, j + 3, rows, ROWS) * r3
    x2 -= _of(at, row, k + 2, j + 3, rows, ROWS) * r3
    x3 -= _of(at, row, k + 3, j + 3, rows, ROWS) * r3
    return x0, x1, x2, x3


@triton.jit
def _four(at, row, k, rows, x0, x1, x2, x3, ROWS: tl.constexpr):
    """Four rows from k on, of x that lack only what they give each other."""
    x1 -= _of(at, row, k + 1, k, rows, ROWS) * x0
    x2 -= _of(at, row, k + 2, k, rows, ROWS) * x0
    x3 -= _of(at, row, k + 3, k, rows, ROWS) * x0
    x2 -= _of(at, row, k + 2, k + 1, rows, ROWS) * x1
    x3 -= _of(at, row, k + 3, k + 1, rows, ROWS) * x1
    x3 -= _of(at, row, k + 3, k + 2, rows, ROWS) * x2
    return x0, x1, x2, x3


@triton.jit
def _ones(column, k):
    """Rows k to k + 3 of a matrix with ones on its diagonal."""
    x0, x1 = (column == k).to(tl.float32), (column == k + 1).to(tl.float32)
    return x0, x1, (column == k + 2).to(tl.float32), (column == k + 3).to(tl.float32)


@triton.jit
def _put(to, row, k, x0, x1, x2, x3, ROWS: tl.constexpr):
    """Store four rows from k on of the blocks on the diagonal."""
    tl.store(to + (row + k) * ROWS + row, x0)
    tl.store(to + (row + k + 1) * ROWS + row, x1)
    tl.store(to + (row + k + 2) * ROWS + row, x2)
    tl.store(to + (row + k + 3) * ROWS + row, x3)


@triton.jit
def _diagonal(at, to, rows, ROWS: tl.constexpr):
    """The inverses of the four blocks on the diagonal, a lane for each of their 64 columns."""
    lane = tl.arange(0, ROWS)
    row, column = lane // 16 * 16, lane % 16
    to += column
    a0, a1, a2, a3 = _ones(column, 0)
    a0, a1, a2, a3 = _four(at, row, 0, rows, a0, a1, a2, a3, ROWS)
    _put(to, row, 0, a0, a1, a2, a3, ROWS)
    b0, b1, b2, b3 = _ones(column, 4)
    b0, b1, b2, b3 = _less(at, row, 4, 0, rows, b0, b1, b2, b3, a0, a1, a2, a3, ROWS)
    b0, b1, b2, b3 = _four(at, row, 4, rows, b0, b1, b2, b3, ROWS)
    _put(to, row, 4, b0, b1, b2, b3, ROWS)
    c0, c1, c2, c3 = _ones(column, 8)
    c0, c1, c2, c3 = _less(at, row, 8, 0, rows, c0, c1, c2, c3, a0, a1, a2, a3, ROWS)
    c0, c1, c2, c3 = _less(at, row, 8, 4, rows, c0, c1, c2, c3, b0, b1, b2, b3, ROWS)
    c0, c1, c2, c3 = _four(at, row, 8, rows, c0, c1, c2, c3, ROWS)
    _put(to, row, 8, c0, c1, c2, c3, ROWS)
    d0, d1, d2, d3 = _ones(column, 12)
    d0, d1, d2, d3 = _less(at, row, 12, 0, rows, d0, d1, d2, d3, a0, a1, a2, a3, ROWS)
    d0, d1, d2, d3 = _less(at, row, 12, 4, rows, d0, d1, d2, d3, b0, b1, b2, b3, ROWS)
    d0, d1, d2, d3 = _less(at, row, 12, 8, rows, d0, d1, d2, d3, c0, c1, c2, c3, ROWS)
    d0, d1, d2, d3 = _four(at, row, 12, rows, d0, d1, d2, d3, ROWS)
    _put(to, row, 12, d0, d1, d2, d3, ROWS)


@triton.jit
def _inverses(
    matrices, inverses, starts, heads, ROWS: tl.constexpr, WAY: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    """Grid (chunks, heads, sequences). Rows from the end of the sequence on are those of 1."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    head, seq = tl.program_id(1), tl.program_id(2)
    place, start, end = begin(starts, seq, tl.program_id(0), head, heads, ROWS)
    if start >= end:
        return
    rows = end - start
    at, to = matrices + place * ROWS * ROWS, inverses + place * ROWS * ROWS
    _diagonal(at, to, rows, ROWS)
    i = tl.arange(0, 16)
    tile = i[:, None] * ROWS + i[None, :]
    left = (rows - i)[:, None]  # rows, from each one on
    a10 = tl.load(at + tile + 16 * ROWS, mask=left > 16, other=0.0)
    a20 = tl.load(at + tile + 32 * ROWS, mask=left > 32, other=0.0)
    a21 = tl.load(at + tile + 32 * ROWS + 16, mask=left > 32, other=0.0)
    a30 = tl.load(at + tile + 48 * ROWS, mask=left > 48, other=0.0)
    a31 = tl.load(at + tile + 48 * ROWS + 16, mask=left > 48, other=0.0)
    a32 = tl.load(at + tile + 48 * ROWS + 32, mask=left > 48, other=0.0)
    tl.debug_barrier()  # other threads read what was written
    to += tile
    t0, t1 = tl.load(to), tl.load(to + 16 * ROWS + 16)
    t2, t3 = tl.load(to + 32 * ROWS + 32), tl.load(to + 48 * ROWS + 48)
    t10 = -_product(t1, _product(a10, t0, WAY), WAY)
    t21 = -_product(t2, _product(a21, t1, WAY), WAY)
    t32 = -_product(t3, _product(a32, t2, WAY), WAY)
    t20 = -_product(t2, _product(a20, t0, WAY) + _product(a21, t10, WAY), WAY)
    t31 = -_product(t3, _product(a31, t1, WAY) + _product(a32, t21, WAY), WAY)
    t30 = _product(a30, t0, WAY) + _product(a31, t10, WAY) + _product(a32, t20, WAY)
    t30 = -_product(t3, t30, WAY)
    tl.store(to + 16 * ROWS, t10)
    tl.store(to + 32 * ROWS, t20)
    tl.store(to + 32 * ROWS + 16, t21)
    tl.store(to + 48 * ROWS, t30)
    tl.store(to + 48 * ROWS + 16, t31)
    tl.store(to + 48 * ROWS + 32, t32)


@triton.jit
def _product(a, b, WAY: tl.constexpr):
    """a b of float32 [16, 16], with all of their bits."""
    return tl.dot(a, b, input_precision=WAY)


def inverses(matrices: Tensor, chunks: Chunks, *, pdl: bool) -> Tensor:
    """(1 + A)^-1 of matrices A, float32 [count, 64, 64], of which only what is below their
    diagonals counts; what is above the diagonals of the result is not written."""
    found = torch.empty_like(matrices)
    _inverses[chunks.grid](
        matrices, found, chunks.sequences.starts, chunks.heads, ROWS=ROWS, WAY=way(torch.float32),
        num_warps=1, **dependent(pdl),
    )  # fmt: skip
    return found
