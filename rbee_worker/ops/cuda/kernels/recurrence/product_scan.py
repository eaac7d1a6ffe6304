"""A decoding step of Mamba's scan, with the product that makes its dt from a narrow one, in one
launch."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import CELL, scan_shape
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.prefetch import ask, ask_for, share
from rbee_worker.ops.cuda.kernels.recurrence.rows import by_row, silu, softplus
from rbee_worker.ops.cuda.kernels.recurrence.state_space import next_row

MOST_RANK = 256  # columns of the narrow dt
MOST_SEQUENCES = 64
_WARPS = 4
_PROGRAMS = 1024  # enough for an H200, from which on a program has several sequences
_MOST_EACH = 8


@triton.jit
def _product_scan(
    x, narrow, w, bias, b, c, gate, rates, skip, state, slots, out, number, width, cells, x_stride,
    narrow_stride, b_stride, c_stride, gate_stride, each, next_matrix, lines, RANK: tl.constexpr,
    RP: tl.constexpr, BIAS: tl.constexpr, STATES: tl.constexpr, SP: tl.constexpr,
    CELL: tl.constexpr, THREADS: tl.constexpr, TURNS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One cell of `each` sequences, which have one row each."""
    if PDL:
        gdc_launch_dependents()
    cell, group = tl.program_id(0), tl.program_id(1)
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
    first = group * each
    end = tl.minimum(first + each, number)
    slot = tl.load(slots + first)
    if TURNS > 0:
        program = group * cells + cell
        ask_for(next_matrix, lines, program, THREADS, TURNS)
        # The first states too, one line of 128 bytes for two rows of 16 numbers.
        ask(state + (slot * cells + cell) * STATES * CELL + n * CELL, live & (n % 2 == 0))
    if PDL:
        gdc_wait()
    for seq in range(first, end):
        kept = state + (slot * cells + cell) * STATES * CELL + n[:, None] * CELL + i[None, :]
        h = tl.load(kept, mask=own, other=0.0)
        line = tl.load(narrow + seq * narrow_stride + r, mask=r < RANK, other=0.0).to(tl.float32)
        value = tl.load(x + seq * x_stride + col, mask=inside, other=0.0).to(tl.float32)
        into = tl.load(b + seq * b_stride + n, mask=live, other=0.0).to(tl.float32)
        from_ = tl.load(c + seq * c_stride + n, mask=live, other=0.0).to(tl.float32)
        g = tl.load(gate + seq * gate_stride + col, mask=inside, other=0.0).to(tl.float32)
        slot = tl.load(slots + seq + 1, mask=seq + 1 < end, other=0)
        dt = tl.sum(weights.to(tl.float32) * line[None, :], 1)
        if BIAS:
            dt += offset
        size = softplus(dt.to(x.dtype.element_ty).to(tl.float32))  # as a launch of its own rounds
        decay = tl.exp(size[None, :] * rate)
        h, y = next_row(h, decay, size, value, into, from_, factor)
        y = y * silu(g)
        tl.store(out + seq * width + col, y.to(out.dtype.element_ty), mask=inside)
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
    prefetch: Tensor | None = None,
    pdl: bool = False,
) -> Tensor:
    """`state_space.selective_scan` with dt = narrow [B, rank] times weight [width, rank]
    transposed, plus bias (float32 [width]), rounded to x's type as a product of its own rounds it.
    Each of the B sequences has one row; slots: int64 [B]; weight of x's type, rank at most
    `MOST_RANK`.
    prefetch: a part of the next large matrix, see `prefetch.py`.

    Predicted, not measured (Mamba 2.8B on an H200, one sequence): one launch of about 3 us instead
    of two of about 4 each, and the 1.6 MB of weights are read while the launch before computes.
    """
    number, width = x.shape
    rank, states = narrow.shape[1], b.shape[1]
    cells = scan_shape(states, width)[0]
    assert state.shape[1:] == scan_shape(states, width)
    assert weight.shape == (width, rank)
    assert rank <= MOST_RANK
    out = torch.empty((number, width), dtype=x.dtype, device=x.device)
    x, narrow, b, c, gate = map(by_row, (x, narrow, b, c, gate))
    each = max(1, min(_MOST_EACH, cells * number // _PROGRAMS))
    groups = triton.cdiv(number, each)
    asked, lines, turns = share(prefetch, cells * groups, _WARPS)
    _product_scan[(cells, groups)](
        x, narrow, weight, bias, b, c, gate, rates, skip, state, slots, out, number, width, cells,
        x.stride(0), narrow.stride(0), b.stride(0), c.stride(0), gate.stride(0), each, asked, lines,
        RANK=rank, RP=power_of_two(rank), BIAS=bias is not None, STATES=states,
        SP=power_of_two(states), CELL=CELL, num_warps=_WARPS, enable_fp_fusion=False, **turns,
        **dependent(pdl),
    )  # fmt: skip
    return out
