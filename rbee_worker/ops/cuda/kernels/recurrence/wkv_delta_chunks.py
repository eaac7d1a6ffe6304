"""The recurrence of RWKV 7 by chunks of rows: `Wkv.wkv_delta` of prompts.

With the names of `Wkv.wkv_delta`, G_t the sum of a chunk's logarithms of w up to row t, and h the
state before the chunk, the rows s = u h that its steps remove are

    (1 + A) s = e^(G - w) u h + B v,  A_tj = e^(G_t-1 - G_j) u_t (u a)_j, B_tj the same of u and c

for j < t (Yang et al. 2024, Parallelizing Linear Transformers with the Delta Rule, section 3), and
y is e^G r h less the same of r and u a times s, plus that of r and c times v, for j <= t. Nothing
but h, s and y depends on the state: the rest is computed for all chunks side by side, and a program
then goes through the chunks of a sequence with some value columns of one head.

No step uses it yet: docs/gpu.md says what was found on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import CELL, scan_shape
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.recurrence.decayed import logarithms, rows_of, write_products
from rbee_worker.ops.cuda.kernels.recurrence.delta_chunks import write_inverses
from rbee_worker.ops.cuda.kernels.recurrence.exact import both_dot, left_dot, way
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row
from rbee_worker.ops.cuda.kernels.recurrence.segments import places

ROWS = 64  # of a chunk
_COLUMNS, _WARPS = 32, 4  # of a program
_LEAST = tl.constexpr(1e-12)  # length of a direction before it is one


@triton.jit
def _rows(
    r, k, decay, rate, removal, renewal, bonus, starts, plain, decayed, wholes, owns, r_stride,
    k_stride, decay_stride, rate_stride, heads, count, SIZE: tl.constexpr, SP: tl.constexpr,
    ROWS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (chunks, heads, sequences): u, u a and c of each row in `plain`; in `decayed` u and r
    from the chunk's start on, u a and c to its end. `count` chunks of heads lie between these."""
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
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    place = (start // ROWS + seq + tl.program_id(0)) * heads + head
    start += tl.program_id(0) * ROWS
    if start >= end:
        return
    t, end = start + i, tl.minimum(end, start + ROWS)
    here = rows_of(r, r_stride, t, end, key, live)
    keys = rows_of(k, k_stride, t, end, key, live)
    a = 1.0 / (1.0 + tl.exp(-rows_of(rate, rate_stride, t, end, key, live)))
    u = keys * gone[None, :]
    u = u / tl.maximum(tl.sqrt_rn(tl.sum(u * u, 1)), _LEAST)[:, None]
    c = keys * (1.0 + (a - 1.0) * again[None, :])
    tl.store(owns + place * ROWS + i, tl.sum(here * c * extra[None, :], 1))
    at, far = place * ROWS * SP + i[:, None] * SP + n[None, :], count * ROWS * SP
    tl.store(plain + at, u)
    tl.store(plain + far + at, u * a)
    tl.store(plain + 2 * far + at, c)
    before = logarithms(decay, decay_stride, gone, t - 1, start, end, key, live, "sigmoid")
    own = logarithms(decay, decay_stride, gone, t, start, end, key, live, "sigmoid")
    behind = logarithms(decay, decay_stride, gone, t + 1, start, end, key, live, "sigmoid")
    before, behind = tl.cumsum(before, 0), tl.exp(tl.cumsum(behind, 0, reverse=True))
    tl.store(decayed + at, u * tl.exp(before))
    tl.store(decayed + far + at, here * tl.exp(before + own))
    tl.store(decayed + 2 * far + at, u * a * behind)
    tl.store(decayed + 3 * far + at, c * behind)
    tl.store(wholes + place * SP + n, tl.exp(tl.sum(own, 0)))


@triton.jit
def _weights(
    r, decay, starts, plain, weights, r_stride, decay_stride, heads, count, SIZE: tl.constexpr,
    SP: tl.constexpr, READ: tl.constexpr, ROWS: tl.constexpr, WAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (2 * chunks, heads, sequences): the products of u, or READ of r, with u a and c."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    part, chunk = tl.program_id(0) % 2, tl.program_id(0) // 2
    head, seq = tl.program_id(1), tl.program_id(2)
    n = tl.arange(0, SP)
    live, key = n < SIZE, head * SIZE + n
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    place = (start // ROWS + seq + chunk) * heads + head
    start += chunk * ROWS
    if start >= end:
        return
    end = tl.minimum(end, start + ROWS)
    to = weights + ((2 * READ + part) * count + place) * ROWS * ROWS
    own = plain + (place * ROWS - start) * SP - head * SIZE  # rows and keys as elsewhere
    y = own + (1 + part).to(tl.int64) * count * ROWS * SP
    on = tl.full([SP], READ, tl.float32)  # of the diagonal
    if READ:
        write_products(
            r, r_stride, y, SP, decay, decay_stride, on, on, to, start, end, key, live, "sigmoid",
            True, SP, ROWS, WAY,
        )  # fmt: skip
    else:
        write_products(
            own, SP, y, SP, decay, decay_stride, on, on, to, start, end, key, live, "sigmoid",
            False, SP, ROWS, WAY,
        )  # fmt: skip


@triton.jit
def _lower(at, place, i, rows, ROWS: tl.constexpr):
    """A matrix of a chunk of that many rows; what is above its diagonal is zero."""
    to = at + place * ROWS * ROWS + i[:, None] * ROWS + i[None, :]
    return tl.load(to, mask=(i[:, None] >= i[None, :]) & (i < rows)[:, None], other=0.0)


@triton.jit
def _chunks(
    v, weights, decayed, wholes, owns, state, slots, starts, out, own, v_stride, heads, count,
    SIZE: tl.constexpr, CELLS: tl.constexpr, SP: tl.constexpr, CELL: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, WAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of columns, heads, sequences)."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, i = tl.arange(0, SP), tl.arange(0, ROWS)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of the head
    inside, col = column < SIZE, head * SIZE + column
    if PDL:
        gdc_wait()
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    place = (start // ROWS + seq) * heads + head
    kept = state + (tl.load(slots + seq) * heads + head) * CELLS * SIZE * CELL
    kept += ((column // CELL)[None, :] * SIZE + n[:, None]) * CELL + (column % CELL)[None, :]
    stored = (n < SIZE)[:, None] & (column < CELLS * CELL)[None, :]
    h = tl.load(kept, mask=stored, other=0.0)
    for first in range(start, end, ROWS):
        t = first + i
        there = (t < end)[:, None] & inside[None, :]
        value = tl.load(v + t[:, None] * v_stride + col[None, :], mask=there, other=0.0)
        at = decayed + place * ROWS * SP + i[:, None] * SP + n[None, :]
        far, rows = count * ROWS * SP, end - first
        seen = both_dot(tl.load(at), h, WAY)
        seen += left_dot(_lower(weights, place + count, i, rows, ROWS), value, WAY)
        seen = both_dot(_lower(weights, place, i, rows, ROWS), seen, WAY)
        y = both_dot(tl.load(at + far), h, WAY)
        y -= both_dot(_lower(weights, place + 2 * count, i, rows, ROWS), seen, WAY)
        y += left_dot(_lower(weights, place + 3 * count, i, rows, ROWS), value, WAY)
        to = t[:, None] * heads * SIZE + col[None, :]
        tl.store(out + to, y.to(out.dtype.element_ty), mask=there)
        z = tl.load(owns + place * ROWS + i)[:, None] * value.to(tl.float32)
        tl.store(own + to, z.to(own.dtype.element_ty), mask=there)
        removed, added = tl.load(at + 2 * far), tl.load(at + 3 * far)
        h = tl.load(wholes + place * SP + n)[:, None] * h
        h += left_dot(tl.trans(added), value, WAY) - both_dot(tl.trans(removed), seen, WAY)
        place += heads
    tl.store(kept, h, mask=stored)


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
    cells, padded = scan_shape(size, size)[0], max(16, power_of_two(size))
    count = places(sequences, n, ROWS) * heads
    kind: dict[str, Any] = {"dtype": torch.float32, "device": v.device}
    plain = torch.empty((3, count, ROWS, padded), **kind)
    decayed = torch.empty((4, count, ROWS, padded), **kind)
    weights = torch.empty((4, count, ROWS, ROWS), **kind)
    wholes, owns = torch.empty((count, padded), **kind), torch.empty((count, ROWS), **kind)
    number = triton.cdiv(max(sequences.longest, 1), ROWS)
    how = {"SIZE": size, "SP": padded, "ROWS": ROWS, "num_stages": 1, **dependent(pdl)}
    _rows[(number, heads, sequences.number)](
        r, k, decay, rate, removal, renewal, bonus, sequences.starts, plain, decayed, wholes, owns,
        r.stride(0), k.stride(0), decay.stride(0), rate.stride(0), heads, count, num_warps=4, **how,
    )  # fmt: skip
    for read in (0, 1):
        _weights[(2 * number, heads, sequences.number)](
            r, decay, sequences.starts, plain, weights, r.stride(0), decay.stride(0), heads, count,
            READ=read, WAY=way(v.dtype), num_warps=2, **how,
        )  # fmt: skip
    write_inverses(weights[0], sequences, heads=heads, pdl=pdl)
    block = min(_COLUMNS, power_of_two(cells * CELL))
    _chunks[(triton.cdiv(size, block), heads, sequences.number)](
        v, weights, decayed, wholes, owns, state, sequences.slots, sequences.starts, out, own,
        v.stride(0), heads, count, CELLS=cells, CELL=CELL, BLOCK=block, WAY=way(v.dtype),
        num_warps=_WARPS, **how,
    )  # fmt: skip
    return out, own
