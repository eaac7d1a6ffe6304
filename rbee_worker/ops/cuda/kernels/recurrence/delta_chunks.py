"""Gated delta rules by chunks of rows: `GatedDelta.gated_delta` of prompts.

Yang, Kautz and Hatamizadeh 2024 (Gated Delta Networks, section 3.3). With k and q directions, G the
sum of a chunk's logarithms of decays up to a row, and h the states before it, what the rows add is

    (1 + A) n = beta (v - e^G k h),  A_ij = beta_i e^(G_i - G_j) k_i k_j for j < i

and then a row gives q_i (e^G_i h + the sum over j <= i of e^(G_i - G_j) k_j n_j). `_matrices`
computes what needs no state, and `inverse.py` (1 + A)^-1, for all chunks side by side; `_carry`
goes from chunk to chunk for n and h; `chunks.results` computes all rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import scan_shape
from rbee_worker.ops.cuda.kernels.recurrence.chunks import (
    ROWS,
    Chunks,
    Tile,
    begin,
    results,
    state_at,
)
from rbee_worker.ops.cuda.kernels.recurrence.exact import dot
from rbee_worker.ops.cuda.kernels.recurrence.inverse import inverses
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row
from rbee_worker.ops.cuda.kernels.recurrence.steps import decay_between, write_steps

_FEW = Tile(16, 4, 2)
_WARPS = 4


@triton.jit
def _matrices(
    q, k, beta, steps, starts, matrices, weights, vectors, scales, q_stride, k_stride, beta_stride,
    heads, scale, STATES: tl.constexpr, PER_GROUP: tl.constexpr, SP: tl.constexpr,
    ROWS: tl.constexpr, WAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (chunks, heads, sequences): A, the weights of n in y; for each row beta, beta e^G over
    the length of k, and the decay behind it over the length of k; e^G over the length of q."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, r = tl.arange(0, SP), tl.arange(0, ROWS)
    live = n < STATES
    shared = (head // PER_GROUP) * STATES + n
    if PDL:
        gdc_wait()
    place, start, end = begin(starts, seq, tl.program_id(0), head, heads, ROWS)
    if start >= end:
        return
    t = start + r
    there = t < end
    own = there[:, None] & live[None, :]
    query = tl.load(q + t[:, None] * q_stride + shared[None, :], mask=own, other=0.0)
    key = tl.load(k + t[:, None] * k_stride + shared[None, :], mask=own, other=0.0)
    share = tl.load(beta + t * beta_stride + head, mask=there, other=0.0).to(tl.float32)
    share = tl.where(there, 1.0 / (1.0 + tl.exp(-share)), 0.0)
    wide, long = query.to(tl.float32), key.to(tl.float32)
    of_q = scale / tl.sqrt_rn(tl.sum(wide * wide, 1) + 1e-6)
    of_k = 1.0 / tl.sqrt_rn(tl.sum(long * long, 1) + 1e-6)
    decay = decay_between(steps, place, ROWS) * of_k[None, :]
    keys = tl.trans(key)
    at = place * ROWS * ROWS + r[:, None] * ROWS + r[None, :]
    tl.store(matrices + at, (share * of_k)[:, None] * decay * dot(key, keys, WAY))
    weight = of_q[:, None] * decay * dot(query, keys, WAY)
    tl.store(weights + at, weight.to(weights.dtype.element_ty))
    at = steps + (place * 4 + 1) * ROWS + r
    upto, left = tl.exp(tl.load(at)), tl.load(at + 2 * ROWS)
    at = vectors + place * 3 * ROWS + r
    tl.store(at, share)
    tl.store(at + ROWS, share * upto * of_k)
    tl.store(at + 2 * ROWS, left * of_k)
    tl.store(scales + place * ROWS + r, upto * of_q)


@triton.jit
def _carry(
    k, v, inverses, vectors, decays, state, slots, starts, firsts, new, columns, k_stride, v_stride,
    heads, STATES: tl.constexpr, CELLS: tl.constexpr, PER_GROUP: tl.constexpr, SP: tl.constexpr,
    CELL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WAY: tl.constexpr,
    STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of columns, heads, sequences): h before each chunk, and n of its rows."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, r = tl.arange(0, SP), tl.arange(0, ROWS)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of the head
    live, inside = n < STATES, column < columns
    col, shared = head * columns + column, (head // PER_GROUP) * STATES + n
    upto = r[None, :] >= r[:, None]
    if PDL:
        gdc_wait()
    begun, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    first_place = (begun // ROWS + seq) * heads + head
    kept, own = state_at(state, tl.load(slots + seq), head, heads, column, n, STATES, CELLS, CELL)
    h = tl.load(kept, mask=own, other=0.0)
    for chunk in tl.range(tl.cdiv(end - begun, ROWS), num_stages=STAGES):
        place = first_place + chunk * heads
        t = begun + chunk * ROWS + r
        there = t < end
        to = firsts + (place * columns + column)[:, None] * SP + n[None, :]
        tl.store(to, h.to(firsts.dtype.element_ty), mask=inside[:, None])
        at = k + t[:, None] * k_stride + shared[None, :]
        key = tl.load(at, mask=there[:, None] & live[None, :], other=0.0)
        at = v + t[None, :] * v_stride + col[:, None]
        value = tl.load(at, mask=inside[:, None] & there[None, :], other=0.0)
        at = inverses + place * ROWS * ROWS + r[None, :] * ROWS + r[:, None]
        inverse = tl.load(at, mask=upto, other=0.0)  # transposed
        at = vectors + place * 3 * ROWS + r
        share, of_seen, left = tl.load(at), tl.load(at + ROWS), tl.load(at + 2 * ROWS)
        added = share[None, :] * value.to(tl.float32)
        added = dot(added - of_seen[None, :] * dot(h, tl.trans(key), WAY), inverse, WAY)
        to = new + (place * ROWS + r)[None, :] * columns + column[:, None]
        tl.store(to, added.to(new.dtype.element_ty), mask=inside[:, None])
        h = tl.load(decays + place) * h + dot(added * left[None, :], key, WAY)
    tl.store(kept, h, mask=own)


def gated_delta_chunks(
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
    """See `delta.gated_delta`; results depend on where a step ends, in their last bits."""
    (n, width), heads = v.shape, dt.shape[1]
    out = torch.empty((n, width), dtype=v.dtype, device=v.device)
    columns, states = width // heads, q.shape[1] // groups
    assert state.shape[1:] == scan_shape(states, columns, heads)
    q, k, v, dt, beta = map(by_row, (q, k, v, dt, beta))
    chunks = Chunks(
        sequences, n, heads=heads, columns=columns, states=states, dtype=v.dtype, device=v.device,
        pdl=pdl,
    )  # fmt: skip
    matrices, weights = chunks.empty(ROWS, ROWS), chunks.empty(ROWS, ROWS, brief=True)
    vectors, scales = chunks.empty(3, ROWS), chunks.empty(ROWS)
    starts, shared = sequences.starts, heads // groups
    steps, decays = write_steps(chunks, dt, bias, rates)
    _matrices[chunks.grid](
        q, k, beta, steps, starts, matrices, weights, vectors, scales, q.stride(0), k.stride(0),
        beta.stride(0), heads, states**-0.5, STATES=states, PER_GROUP=shared, WAY=chunks.way,
        num_warps=_WARPS, num_stages=1, **chunks.how,
    )  # fmt: skip
    found = inverses(matrices, chunks, pdl=pdl)
    firsts, new = chunks.firsts(), chunks.empty(ROWS, columns, brief=True)
    read = ROWS * (chunks.padded * chunks.element + 4 * ROWS)
    grid, how = chunks.in_order(_FEW, read=read)
    _carry[grid](
        k, v, found, vectors, decays, state, sequences.slots, starts, firsts, new, columns,
        k.stride(0), v.stride(0), heads, PER_GROUP=shared, **how,
    )  # fmt: skip
    results(chunks, q, scales, firsts, out, new=(weights, new), per_group=shared)
    return out
