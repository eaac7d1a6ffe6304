"""A matrix for each head times that head's part of a few rows: `Ops.heads_linear`."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.each import by_columns
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two

MOST_ROWS = 8  # each row reads the matrices once more, from the L2 cache
MOST_COLUMNS = 2048  # a program has whole rows of its matrix
_NUMBERS = 8192  # of a matrix, in a program


@triton.jit
def _by_head(
    x, w, out, x_row, K: tl.constexpr, ROWS: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """BN columns of one head's result, for one row."""
    if PDL:
        gdc_launch_dependents()
    head, row = tl.program_id(0).to(tl.int64), tl.program_id(2).to(tl.int64)
    n, k = tl.program_id(1) * BN + tl.arange(0, BN), tl.arange(0, BK)
    ok = (n < ROWS)[:, None] & (k < K)[None, :]
    a = tl.load(w + (head * ROWS + n)[:, None] * K + k[None, :], mask=ok, other=0.0)
    if PDL:
        gdc_wait()
    v = tl.load(x + row * x_row + head * K + k, mask=k < K, other=0.0).to(tl.float32)
    y = tl.sum(a.to(tl.float32) * v[None, :], 1)
    at = out + (row * tl.num_programs(0) + head) * ROWS + n
    tl.store(at, y.to(out.dtype.element_ty), mask=n < ROWS)


def by_head(x: Tensor, stack: Tensor, *, pdl: bool = False) -> Tensor:
    """x [N, count * cols] times stack [count, rows, cols] transposed, head by head: [N, count *
    rows], for at most `MOST_COLUMNS` columns. The order of a sum depends on the columns only."""
    count, rows, cols = stack.shape
    n = x.shape[0]
    assert cols <= MOST_COLUMNS
    out = torch.empty((n, count * rows), dtype=x.dtype, device=x.device)
    x = by_columns(x)
    block = power_of_two(cols)
    each = min(max(1, _NUMBERS // block), 64, power_of_two(rows))
    if n:
        _by_head[(count, triton.cdiv(rows, each), n)](
            x, stack, out, x.stride(0), K=cols, ROWS=rows, BN=each, BK=block, num_warps=4,
            **dependent(pdl),
        )  # fmt: skip
    return out
