"""A row of Mamba's scan, with the product that makes its dt from a narrow one, in one launch: how
one sequence's decoding step goes on."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import CELL, scan_shape
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.recurrence.rows import by_row, silu, softplus
from rbee_worker.ops.cuda.kernels.recurrence.state_space import next_row

MOST_RANK = 256  # columns of the narrow dt
_WARPS = 4


@triton.jit
def _product_scan(
    x, narrow, w, bias, b, c, gate, rates, skip, state, slots, out, width, cells,
    RANK: tl.constexpr, RP: tl.constexpr, BIAS: tl.constexpr, STATES: tl.constexpr,
    SP: tl.constexpr, CELL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One cell."""
    if PDL:
        gdc_launch_dependents()
    cell = tl.program_id(0)
    n, i, r = tl.arange(0, SP), tl.arange(0, CELL), tl.arange(0, RP)
    col = cell * CELL + i
    live, inside = n < STATES, col < width
    own = live[:, None] & (i < CELL)[None, :]
    # What no launch of this step makes; its slots are copied before its first kernel starts.
    weights = tl.load(
        w + col[:, None] * RANK + r[None, :], mask=inside[:, None] & (r < RANK)[None, :], other=0.0
    )
    rate = tl.load(rates + (cell * STATES + n[:, None]) * CELL + i[None, :], mask=own, other=0.0)
    factor = tl.load(skip + col, mask=inside, other=0.0)
    if BIAS:
        offset = tl.load(bias + col, mask=inside, other=0.0)
    kept = state + (tl.load(slots) * cells + cell) * STATES * CELL
    kept += n[:, None] * CELL + i[None, :]
    if PDL:
        gdc_wait()
    h = tl.load(kept, mask=own, other=0.0)
    line = tl.load(narrow + r, mask=r < RANK, other=0.0).to(tl.float32)
    value = tl.load(x + col, mask=inside, other=0.0).to(tl.float32)
    into = tl.load(b + n, mask=live, other=0.0).to(tl.float32)
    from_ = tl.load(c + n, mask=live, other=0.0).to(tl.float32)
    g = tl.load(gate + col, mask=inside, other=0.0).to(tl.float32)
    dt = tl.sum(weights.to(tl.float32) * line[None, :], 1)
    if BIAS:
        dt += offset
    size = softplus(dt.to(x.dtype.element_ty).to(tl.float32))  # as a launch of its own rounds
    decay = tl.exp(size[None, :] * rate)
    h, y = next_row(h, decay, size, value, into, from_, factor)
    y = y * silu(g)
    tl.store(out + col, y.to(out.dtype.element_ty), mask=inside)
    tl.store(kept, tl.where(inside[None, :], h, 0.0), mask=own)


def product_scan(
    x: Tensor,
    narrow: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    b: Tensor,
    c: Tensor,
    gate: Tensor,
    rates: Tensor,
    skip: Tensor,
    state: Tensor,
    slots: Tensor,
    *,
    pdl: bool = False,
) -> Tensor:
    """`state_space.selective_scan` of one row, with dt = narrow [1, rank] times weight [width,
    rank] transposed, plus bias (float32 [width]), rounded to x's type as a product of its own
    rounds it. slots: int64 [1]; weight of x's type, rank at most `MOST_RANK`. Of several sequences
    each would read the weights again.
    """
    width, (rank, states) = x.shape[1], (narrow.shape[1], b.shape[1])
    cells = scan_shape(states, width)[0]
    assert x.shape[0] == 1
    assert state.shape[1:] == scan_shape(states, width)
    assert weight.shape == (width, rank)
    assert rank <= MOST_RANK
    out = torch.empty((1, width), dtype=x.dtype, device=x.device)
    x, narrow, b, c, gate = map(by_row, (x, narrow, b, c, gate))
    _product_scan[(cells,)](
        x, narrow, weight, bias, b, c, gate, rates, skip, state, slots, out, width, cells,
        RANK=rank, RP=power_of_two(rank), BIAS=bias is not None, STATES=states,
        SP=power_of_two(states), CELL=CELL, num_warps=_WARPS, enable_fp_fusion=False,
        **dependent(pdl),
    )  # fmt: skip
    return out
