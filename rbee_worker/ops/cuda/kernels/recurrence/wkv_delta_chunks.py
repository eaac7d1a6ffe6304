"""The recurrence of RWKV 7 by chunks of rows: `Wkv.wkv_delta` of prompts.

With the names of `Wkv.wkv_delta`, G_t the sum of a chunk's logarithms of w up to row t, and h the
state before the chunk, the rows s = u h that its steps remove are

    (1 + A) s = e^(G_t-1) u h + B v,  A_tj = e^(G_t-1 - G_j) u_t (u a)_j, B_tj the same of u and c

for j < t (Yang et al. 2024, Parallelizing Linear Transformers with the Delta Rule, section 3), and
y is e^G r h less the same of r and u a times s, plus that of r and c times v, for j <= t.

A row keeps e^-0.61 of a state at least, a chunk e^-39. So e^(G_t - G_j) may be made as a product of
two factors, e^(G_t - M) and e^(M - G_j) with M the sum up to the middle of the chunk: none is above
e^20, and float32 loses nothing.
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

_FEW = Tile(32, 4, 3)
_WARPS = 4
_LEAST = tl.constexpr(1e-12)  # length of a direction before it is one
_FASTEST = tl.constexpr(-0.6065306597126334)  # -e^-0.5, the logarithm of the least weight


@triton.jit
def _rows_of(x, stride, t, key, own):
    """Rows t, float32 [rows, states]."""
    return tl.load(x + t[:, None] * stride + key[None, :], mask=own, other=0.0).to(tl.float32)


@triton.jit
def _matrices(
    r, k, decay, rate, removal, renewal, bonus, starts, matrices, brought, of_seen, of_value,
    unseen, queries, removed, added, wholes, owns, r_stride, k_stride, decay_stride, rate_stride,
    heads, SIZE: tl.constexpr, SP: tl.constexpr, ROWS: tl.constexpr, WAY: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """Grid (chunks, heads, sequences): A, B, and the same of r, that of u a negative; u and r
    decayed from the chunk's start on, u a and c to its end, and the decay of all of it."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, i = tl.arange(0, SP), tl.arange(0, ROWS)
    live, key = n < SIZE, head * SIZE + n
    gone = tl.load(removal + key, mask=live, other=0.0)
    again = tl.load(renewal + key, mask=live, other=0.0)
    extra = tl.load(bonus + key, mask=live, other=0.0)
    if PDL:
        gdc_wait()
    place, start, end = begin(starts, seq, tl.program_id(0), head, heads, ROWS)
    if start >= end:
        return
    t = start + i
    own = (t < end)[:, None] & live[None, :]
    here, keys = _rows_of(r, r_stride, t, key, own), _rows_of(k, k_stride, t, key, own)
    a = 1.0 / (1.0 + tl.exp(-_rows_of(rate, rate_stride, t, key, own)))
    u = keys * gone[None, :]
    u = u / tl.maximum(tl.sqrt_rn(tl.sum(u * u, 1)), _LEAST)[:, None]
    c = keys * (1.0 + (a - 1.0) * again[None, :])
    a = u * a
    tl.store(owns + place * ROWS + i, tl.sum(here * c * extra[None, :], 1))
    passed = _FASTEST / (1.0 + tl.exp(-_rows_of(decay, decay_stride, t, key, own)))
    passed = tl.where(own, passed, 0.0)
    upto, whole = tl.cumsum(passed, 0), tl.sum(passed, 0)
    middle = tl.sum(tl.where((i < ROWS // 2)[:, None], passed, 0.0), 0)
    at = place * ROWS * SP + i[:, None] * SP + n[None, :]
    behind = tl.exp(whole[None, :] - upto)
    tl.store(unseen + at, u * tl.exp(upto - passed))
    tl.store(queries + at, (here * tl.exp(upto)).to(queries.dtype.element_ty))
    tl.store(removed + at, a * behind)
    tl.store(added + at, c * behind)
    tl.store(wholes + place * SP + n, tl.exp(whole))
    upto -= middle[None, :]
    u, here, behind = u * tl.exp(upto - passed), here * tl.exp(upto), tl.exp(-upto)
    a, c = tl.trans(a * behind), tl.trans(c * behind)
    at = place * ROWS * ROWS + i[:, None] * ROWS + i[None, :]
    earlier = i[:, None] > i[None, :]
    tl.store(matrices + at, tl.where(earlier, dot(u, a, WAY), 0.0))
    tl.store(brought + at, tl.where(earlier, dot(u, c, WAY), 0.0))
    tl.store(of_seen + at, (-dot(here, a, WAY)).to(of_seen.dtype.element_ty))
    tl.store(of_value + at, dot(here, c, WAY).to(of_value.dtype.element_ty))


@triton.jit
def _carry(
    v, inverses, brought, unseen, removed, added, wholes, state, slots, starts, firsts, seen,
    columns, v_stride, heads, STATES: tl.constexpr, CELLS: tl.constexpr, SP: tl.constexpr,
    CELL: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WAY: tl.constexpr,
    STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of columns, heads, sequences): h before each chunk, and s of its rows."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, r = tl.arange(0, SP), tl.arange(0, ROWS)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of the head
    inside, col = column < columns, head * columns + column
    if PDL:
        gdc_wait()
    begun, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    first_place = (begun // ROWS + seq) * heads + head
    kept, own = state_at(state, tl.load(slots + seq), head, heads, column, n, STATES, CELLS, CELL)
    h = tl.load(kept, mask=own, other=0.0)
    for chunk in tl.range(tl.cdiv(end - begun, ROWS), num_stages=STAGES):
        place = first_place + chunk * heads
        t = begun + chunk * ROWS + r
        to = firsts + (place * columns + column)[:, None] * SP + n[None, :]
        tl.store(to, h.to(firsts.dtype.element_ty), mask=inside[:, None])
        at = v + t[None, :] * v_stride + col[:, None]
        value = tl.load(at, mask=inside[:, None] & (t < end)[None, :], other=0.0)
        square = place * ROWS * ROWS + r[None, :] * ROWS + r[:, None]  # transposed
        at = place * ROWS * SP + r[:, None] * SP + n[None, :]
        inverse = tl.load(inverses + square, mask=r[None, :] >= r[:, None], other=0.0)
        found = dot(h, tl.trans(tl.load(unseen + at)), WAY)
        found = dot(found + dot(value, tl.load(brought + square), WAY), inverse, WAY)
        to = seen + (place * ROWS + r)[None, :] * columns + column[:, None]
        tl.store(to, found.to(seen.dtype.element_ty), mask=inside[:, None])
        h = tl.load(wholes + place * SP + n)[None, :] * h - dot(found, tl.load(removed + at), WAY)
        h += dot(value, tl.load(added + at), WAY)
    tl.store(kept, h, mask=own)


def wkv_delta_chunks(
    r: Tensor,
    k: Tensor,
    v: Tensor,
    decay: Tensor,
    rate: Tensor,
    removal: Tensor,
    renewal: Tensor,
    bonus: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    heads: int,
    pdl: bool = False,
) -> tuple[Tensor, Tensor]:
    """See `wkv.wkv_delta`; results depend on where a step ends, in their last bits."""
    n, width = v.shape
    size = width // heads
    assert state.shape[1:] == scan_shape(size, size, heads)
    r, k, v, decay, rate = map(by_row, (r, k, v, decay, rate))
    out, own = torch.empty((2, n, width), dtype=v.dtype, device=v.device)
    chunks = Chunks(
        sequences, n, heads=heads, columns=size, states=size, dtype=v.dtype, device=v.device,
        pdl=pdl,
    )  # fmt: skip
    rows, starts = (ROWS, chunks.padded), sequences.starts
    matrices, brought = (chunks.empty(ROWS, ROWS) for _ in range(2))
    of_seen, of_value = (chunks.empty(ROWS, ROWS, brief=True) for _ in range(2))
    unseen, removed, added = (chunks.empty(*rows) for _ in range(3))
    queries, seen = chunks.empty(*rows, brief=True), chunks.empty(ROWS, size, brief=True)
    wholes, owns = chunks.empty(chunks.padded), chunks.empty(ROWS)
    _matrices[chunks.grid](
        r, k, decay, rate, removal, renewal, bonus, starts, matrices, brought, of_seen, of_value,
        unseen, queries, removed, added, wholes, owns, r.stride(0), k.stride(0), decay.stride(0),
        rate.stride(0), heads, SIZE=size, WAY=chunks.way, num_warps=_WARPS, num_stages=1,
        **chunks.how,
    )  # fmt: skip
    found, firsts = inverses(matrices, chunks, pdl=pdl), chunks.firsts()
    grid, how = chunks.in_order(_FEW, read=4 * ROWS * (3 * chunks.padded + 2 * ROWS))
    _carry[grid](
        v, found, brought, unseen, removed, added, wholes, state, sequences.slots, starts,
        firsts, seen, size, v.stride(0), heads, **how,
    )  # fmt: skip
    results(
        chunks, queries, None, firsts, out, new=(of_seen, seen), value=(of_value, v),
        own=(owns, own),
    )  # fmt: skip
    return out, own
