"""Gated delta rules by chunks of rows: `GatedDelta.gated_delta` of prompts.

Yang, Kautz and Hatamizadeh 2024 (Gated Delta Networks, section 3.3). With k and q directions, G the
sum of a chunk's logarithms of decays up to a row, and h the states before it, what the rows add is

    (1 + A) n = beta (v - e^G k h),  A_ij = beta_i e^(G_i - G_j) k_i k_j for j < i

and then a row gives q_i (e^G_i h + the sum over j <= i of e^(G_i - G_j) k_j n_j). Nothing here but
h and n depends on the state: `_matrices` and `_inverses` compute it for all chunks side by side,
`_chunks` goes through the chunks of a sequence with some columns of one head in registers.

No step uses it yet: docs/gpu.md says what was found on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import CELL, scan_shape
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.recurrence.exact import (
    both_dot,
    right_dot,
    rows_dot,
    sums_between,
    way,
)
from rbee_worker.ops.cuda.kernels.recurrence.inverse import write_inverse
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row, softplus
from rbee_worker.ops.cuda.kernels.recurrence.segments import places

ROWS = 64  # of a chunk
_COLUMNS, _WARPS = 32, 4  # of a program where there are few, else both twice as many
_PROGRAMS = 264  # from which on there are many
_VECTORS = 5


@triton.jit
def _matrices(
    q, k, dt, beta, bias, rates, starts, inverses, weights, vectors, q_stride, k_stride, dt_stride,
    beta_stride, heads, scale, STATES: tl.constexpr, PER_GROUP: tl.constexpr, SP: tl.constexpr,
    ROWS: tl.constexpr, VECTORS: tl.constexpr, WAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (chunks, heads, sequences): A, the weights of n in y, and for each row beta, beta e^G
    over the length of k, e^G of q, the decay behind a row over the length of k; e^G at the end."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, r = tl.arange(0, SP), tl.arange(0, ROWS)
    live = n < STATES
    shared = (head // PER_GROUP) * STATES + n
    rate, offset = tl.load(rates + head), tl.load(bias + head)
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    place = (start // ROWS + seq + tl.program_id(0)) * heads + head
    start += tl.program_id(0) * ROWS
    if start >= end:
        return
    t = start + r
    there = t < end
    own = there[:, None] & live[None, :]
    query = tl.load(q + t[:, None] * q_stride + shared[None, :], mask=own, other=0.0)
    key = tl.load(k + t[:, None] * k_stride + shared[None, :], mask=own, other=0.0)
    raw = tl.load(dt + t * dt_stride + head, mask=there, other=0.0).to(tl.float32)
    size = tl.where(there, softplus(raw + offset), 0.0)
    share = tl.load(beta + t * beta_stride + head, mask=there, other=0.0).to(tl.float32)
    share = tl.where(there, 1.0 / (1.0 + tl.exp(-share)), 0.0)
    wide, long = query.to(tl.float32), key.to(tl.float32)
    of_q = scale / tl.sqrt_rn(tl.sum(wide * wide, 1) + 1e-6)
    of_k = 1.0 / tl.sqrt_rn(tl.sum(long * long, 1) + 1e-6)
    between, upto = sums_between(size * rate, ROWS)
    decay = tl.where(r[:, None] >= r[None, :], tl.exp(between), 0.0) * of_k[None, :]
    keys = tl.trans(key)
    at = place * ROWS * ROWS + r[:, None] * ROWS + r[None, :]
    tl.store(inverses + at, (share * of_k)[:, None] * decay * rows_dot(key, keys, WAY))
    tl.store(weights + at, of_q[:, None] * decay * rows_dot(query, keys, WAY))
    left = tl.sum(tl.where((r == ROWS - 1)[:, None], between, 0.0), 0)
    at = vectors + place * VECTORS * ROWS + r
    whole = tl.exp(upto)
    tl.store(at, share)
    tl.store(at + ROWS, share * whole * of_k)
    tl.store(at + 2 * ROWS, whole * of_q)
    tl.store(at + 3 * ROWS, tl.exp(left) * of_k)
    tl.store(at + 4 * ROWS, whole)


@triton.jit
def _inverses(starts, inverses, heads, ROWS: tl.constexpr, PDL: tl.constexpr):
    """Grid as of `_matrices`: A is replaced with (1 + A)^-1; what is above its diagonal stays."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    head, seq = tl.program_id(1), tl.program_id(2)
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    place = (start // ROWS + seq + tl.program_id(0)) * heads + head
    if start + tl.program_id(0) * ROWS >= end:
        return
    i = tl.arange(0, 16)
    first = inverses + place * ROWS * ROWS
    at = first + i[:, None] * ROWS + i[None, :]
    left = (end - start - tl.program_id(0) * ROWS - i)[:, None]  # rows, from each one on
    m0, m1, m2, m3 = left > 0, left > 16, left > 32, left > 48
    a, a10 = tl.load(at, mask=m0, other=0.0), tl.load(at + 16 * ROWS, mask=m1, other=0.0)
    a1 = tl.load(at + 16 * ROWS + 16, mask=m1, other=0.0)
    a20 = tl.load(at + 32 * ROWS, mask=m2, other=0.0)
    a21 = tl.load(at + 32 * ROWS + 16, mask=m2, other=0.0)
    a2 = tl.load(at + 32 * ROWS + 32, mask=m2, other=0.0)
    a30 = tl.load(at + 48 * ROWS, mask=m3, other=0.0)
    a31 = tl.load(at + 48 * ROWS + 16, mask=m3, other=0.0)
    a32 = tl.load(at + 48 * ROWS + 32, mask=m3, other=0.0)
    a3 = tl.load(at + 48 * ROWS + 48, mask=m3, other=0.0)
    tl.debug_barrier()  # all of it is read before any of it is written
    write_inverse(first, a, a10, a20, a21, a30, a31, a32, a1, a2, a3, ROWS)


@triton.jit
def _chunks(
    q, k, v, inverses, weights, vectors, state, slots, starts, out, columns, q_stride, k_stride,
    v_stride, heads, STATES: tl.constexpr, CELLS: tl.constexpr, PER_GROUP: tl.constexpr,
    SP: tl.constexpr, CELL: tl.constexpr, ROWS: tl.constexpr, VECTORS: tl.constexpr,
    BLOCK: tl.constexpr, WAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of columns, heads, sequences)."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, r = tl.arange(0, SP), tl.arange(0, ROWS)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of the head
    live, inside = n < STATES, column < columns
    col, shared = head * columns + column, (head // PER_GROUP) * STATES + n
    upto = r[:, None] >= r[None, :]
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    place = (start // ROWS + seq) * heads + head
    kept = state + (tl.load(slots + seq) * heads + head) * CELLS * STATES * CELL
    kept += ((column // CELL)[None, :] * STATES + n[:, None]) * CELL + (column % CELL)[None, :]
    own = live[:, None] & (column < CELLS * CELL)[None, :]
    h = tl.load(kept, mask=own, other=0.0)
    for first in range(start, end, ROWS):
        t = first + r
        of_state = (t < end)[:, None] & live[None, :]
        of_out = (t < end)[:, None] & inside[None, :]
        query = tl.load(q + t[:, None] * q_stride + shared[None, :], mask=of_state, other=0.0)
        key = tl.load(k + t[:, None] * k_stride + shared[None, :], mask=of_state, other=0.0)
        value = tl.load(v + t[:, None] * v_stride + col[None, :], mask=of_out, other=0.0)
        at = place * ROWS * ROWS + r[:, None] * ROWS + r[None, :]
        inverse = tl.load(inverses + at, mask=upto, other=0.0)
        weight = tl.load(weights + at)
        at = vectors + place * VECTORS * ROWS + r
        share, of_seen, of_q = tl.load(at), tl.load(at + ROWS), tl.load(at + 2 * ROWS)
        left, decay = tl.load(at + 3 * ROWS), tl.load(vectors + (place * VECTORS + 5) * ROWS - 1)
        new = share[:, None] * value.to(tl.float32) - of_seen[:, None] * right_dot(key, h, WAY)
        new = both_dot(inverse, new, WAY)
        y = of_q[:, None] * right_dot(query, h, WAY) + both_dot(weight, new, WAY)
        to = out + t[:, None] * columns * heads + col[None, :]
        tl.store(to, y.to(out.dtype.element_ty), mask=of_out)
        h = decay * h + right_dot(tl.trans(key), left[:, None] * new, WAY)
        place += heads
    tl.store(kept, h, mask=own)


def chunk_grid(sequences: Sequences, heads: int) -> tuple[int, int, int]:
    """A program for each chunk of each head of each sequence."""
    return triton.cdiv(max(sequences.longest, 1), ROWS), heads, sequences.number


def write_inverses(matrices: Tensor, sequences: Sequences, *, heads: int, pdl: bool) -> None:
    """Replace what is below and on the diagonals of matrices A, float32 [places * heads, ROWS,
    ROWS], with that of (1 + A)^-1, where A is what is below."""
    _inverses[chunk_grid(sequences, heads)](
        sequences.starts, matrices, heads, ROWS=ROWS, num_warps=1, **dependent(pdl)
    )


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
    cells = scan_shape(states, columns)[0]
    assert state.shape[1:] == scan_shape(states, columns, heads)
    q, k, v, dt, beta = map(by_row, (q, k, v, dt, beta))
    count = places(sequences, n, ROWS) * heads
    matrices = torch.empty((2, count, ROWS, ROWS), dtype=torch.float32, device=v.device)
    vectors = torch.empty((count, _VECTORS, ROWS), dtype=torch.float32, device=v.device)
    inverses, weights = matrices[0], matrices[1]
    grid = chunk_grid(sequences, heads)
    how = {
        "STATES": states, "PER_GROUP": heads // groups, "SP": max(16, power_of_two(states)),
        "ROWS": ROWS, "VECTORS": _VECTORS, "WAY": way(v.dtype), "num_stages": 1, **dependent(pdl),
    }  # fmt: skip
    _matrices[grid](
        q, k, dt, beta, bias, rates, sequences.starts, inverses, weights, vectors, q.stride(0),
        k.stride(0), dt.stride(0), beta.stride(0), heads, states**-0.5, num_warps=4, **how,
    )  # fmt: skip
    write_inverses(inverses, sequences, heads=heads, pdl=pdl)
    many = sequences.number * heads * triton.cdiv(columns, _COLUMNS) >= _PROGRAMS
    block = min((1 + many) * _COLUMNS, power_of_two(cells * CELL))
    _chunks[(triton.cdiv(columns, block), heads, sequences.number)](
        q, k, v, inverses, weights, vectors, state, sequences.slots, sequences.starts, out, columns,
        q.stride(0), k.stride(0), v.stride(0), heads, CELLS=cells, CELL=CELL, BLOCK=block,
        num_warps=(1 + (block > _COLUMNS)) * _WARPS, **how,
    )  # fmt: skip
    return out
