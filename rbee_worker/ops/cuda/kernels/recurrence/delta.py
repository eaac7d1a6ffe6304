"""Gated delta rules: `GatedDelta.gated_delta`.

A program has the states of one cell (`ops/cells.py`): 16 columns of one head.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import CELL, scan_shape
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row, softplus


@triton.jit
def _delta(
    q, k, v, dt, beta, bias, rates, state, slots, starts, out, columns, q_stride, k_stride,
    v_stride, dt_stride, beta_stride, heads, scale, STATES: tl.constexpr, CELLS: tl.constexpr,
    PER_GROUP: tl.constexpr, SP: tl.constexpr, CELL: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One cell of one sequence, row by row. PER_GROUP: heads that share q and k."""
    if PDL:
        gdc_launch_dependents()
    seq, cell = tl.program_id(0), tl.program_id(1)
    n, i = tl.arange(0, SP), tl.arange(0, CELL)
    head = cell // CELLS
    column = (cell % CELLS) * CELL + i  # of the head
    live = n < STATES
    inside = column < columns
    col = head * columns + column
    own = live[:, None] & (i < CELL)[None, :]
    shared = (head // PER_GROUP) * STATES + n
    rate, offset = tl.load(rates + head), tl.load(bias + head)
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    kept = state + (tl.load(slots + seq) * heads * CELLS + cell) * STATES * CELL
    kept += n[:, None] * CELL + i[None, :]
    h = tl.load(kept, mask=own, other=0.0)
    # The next row is read before this one is used.
    q_at, k_at = q + start * q_stride + shared, k + start * k_stride + shared
    v_at = v + start * v_stride + col
    dt_at, beta_at = dt + start * dt_stride + head, beta + start * beta_stride + head
    more = start < end
    next_q = tl.load(q_at, mask=live & more, other=0.0)
    next_k = tl.load(k_at, mask=live & more, other=0.0)
    next_v = tl.load(v_at, mask=inside & more, other=0.0)
    next_dt = tl.load(dt_at, mask=more, other=0.0)
    next_beta = tl.load(beta_at, mask=more, other=0.0)
    for t in range(start, end):
        query, key = next_q.to(tl.float32), next_k.to(tl.float32)
        value = next_v.to(tl.float32)
        size = softplus(next_dt.to(tl.float32) + offset)
        share = 1.0 / (1.0 + tl.exp(-next_beta.to(tl.float32)))
        q_at += q_stride
        k_at += k_stride
        v_at += v_stride
        dt_at += dt_stride
        beta_at += beta_stride
        more = t + 1 < end
        next_q = tl.load(q_at, mask=live & more, other=0.0)
        next_k = tl.load(k_at, mask=live & more, other=0.0)
        next_v = tl.load(v_at, mask=inside & more, other=0.0)
        next_dt = tl.load(dt_at, mask=more, other=0.0)
        next_beta = tl.load(beta_at, mask=more, other=0.0)
        query = query * (scale / tl.sqrt_rn(tl.sum(query * query, 0) + 1e-6))
        key = key * (1.0 / tl.sqrt_rn(tl.sum(key * key, 0) + 1e-6))
        h = tl.exp(size * rate) * h
        new = share * (value - tl.sum(h * key[:, None], 0))
        h = h + key[:, None] * new[None, :]
        y = tl.sum(h * query[:, None], 0)
        tl.store(out + t * columns * heads + col, y.to(out.dtype.element_ty), mask=inside)
    h = tl.where(inside[None, :], h, 0.0)
    tl.store(kept, h, mask=own)


def gated_delta(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dt: Tensor,
    beta: Tensor,
    bias: Tensor,
    rates: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    groups: int,
    pdl: bool = False,
) -> Tensor:
    """See `GatedDelta.gated_delta`; state: float32 [slots, *scan_shape(states, columns, heads)]."""
    (n, width), heads = v.shape, dt.shape[1]
    out = torch.empty((n, width), dtype=v.dtype, device=v.device)
    columns, states = width // heads, q.shape[1] // groups
    cells = scan_shape(states, columns)[0]
    assert state.shape[1:] == scan_shape(states, columns, heads)
    q, k, v, dt, beta = map(by_row, (q, k, v, dt, beta))
    padded = power_of_two(states)
    _delta[(sequences.number, heads * cells)](
        q, k, v, dt, beta, bias, rates, state, sequences.slots, sequences.starts, out, columns,
        q.stride(0), k.stride(0), v.stride(0), dt.stride(0), beta.stride(0), heads, states**-0.5,
        STATES=states, CELLS=cells, PER_GROUP=heads // groups, SP=padded, CELL=CELL,
        num_warps=1 if padded <= 32 else 4, enable_fp_fusion=False, **dependent(pdl),
    )  # fmt: skip
    return out
