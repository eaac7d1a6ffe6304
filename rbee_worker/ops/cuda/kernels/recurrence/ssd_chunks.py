"""Mamba 2's recurrence by chunks of rows: `Recurrences.ssd` of prompts.

Dao and Gu 2024, section 6: in a chunk the result is a product of matrices (c b^T, each number
weighted by the decay between its two rows) x, to which comes what the state before the chunk gives.
`steps.py` computes how a chunk's rows decay, `chunks.carry` the states before each chunk,
`_results` all rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import scan_shape
from rbee_worker.ops.cuda.kernels.recurrence.chunks import Chunks, Tile, begin, carry
from rbee_worker.ops.cuda.kernels.recurrence.exact import dot
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences, by_row, silu
from rbee_worker.ops.cuda.kernels.recurrence.steps import decay_between, write_steps

_FEW = Tile(16, 2, 2)


@triton.jit
def _results(
    x, b, c, gate, skip, steps, firsts, starts, out, blocks, columns, x_stride, b_stride, c_stride,
    gate_stride, heads, STATES: tl.constexpr, PER_GROUP: tl.constexpr,
    GATED: tl.constexpr, SP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
    WAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (chunks * blocks of columns, heads, sequences); see `state_space._space`."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    chunk, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    n, r = tl.arange(0, SP), tl.arange(0, ROWS)
    column = block * BLOCK + tl.arange(0, BLOCK)  # of the head
    live, inside = n < STATES, column < columns
    col, shared = head * columns + column, (head // PER_GROUP) * STATES + n
    factor = tl.load(skip + head)
    if PDL:
        gdc_wait()
    place, start, end = begin(starts, seq, chunk, head, heads, ROWS)
    if start >= end:
        return
    t = start + r
    there = t < end
    of_state, of_out = there[:, None] & live[None, :], there[:, None] & inside[None, :]
    into = tl.load(b + t[:, None] * b_stride + shared[None, :], mask=of_state, other=0.0)
    from_ = tl.load(c + t[:, None] * c_stride + shared[None, :], mask=of_state, other=0.0)
    value = tl.load(x + t[:, None] * x_stride + col[None, :], mask=of_out, other=0.0)
    at = firsts + (place * columns + column)[None, :] * SP + n[:, None]
    h = tl.load(at, mask=inside[None, :], other=0.0)
    at = steps + place * 4 * ROWS + r
    weight = decay_between(steps, place, ROWS) * tl.load(at)[None, :]
    y = dot(weight * dot(from_, tl.trans(into), WAY), value, WAY)
    y += tl.exp(tl.load(at + ROWS))[:, None] * dot(from_, h, WAY)
    y += factor * value.to(tl.float32)
    if GATED:
        at = gate + t[:, None] * gate_stride + col[None, :]
        y *= silu(tl.load(at, mask=of_out, other=0.0).to(tl.float32))
    to = out + t[:, None] * columns * heads + col[None, :]
    tl.store(to, y.to(out.dtype.element_ty), mask=of_out)


def ssd_chunks(
    x: Tensor,
    dt: Tensor,
    b: Tensor,
    c: Tensor,
    gate: Tensor | None,
    bias: Tensor,
    rates: Tensor,
    skip: Tensor,
    state: Tensor,
    sequences: Sequences,
    *,
    groups: int = 1,
    pdl: bool = False,
) -> Tensor:
    """See `state_space.ssd`; results depend on where a step ends, in their last bits."""
    (n, width), heads = x.shape, dt.shape[1]
    out = torch.empty((n, width), dtype=x.dtype, device=x.device)
    columns, states = width // heads, b.shape[1] // groups
    assert state.shape[1:] == scan_shape(states, columns, heads)
    gated, gate = gate is not None, x if gate is None else gate
    x, dt, b, c, gate = map(by_row, (x, dt, b, c, gate))
    chunks = Chunks(
        sequences, n, heads=heads, columns=columns, states=states, dtype=x.dtype, device=x.device,
        pdl=pdl,
    )  # fmt: skip
    steps, decays = write_steps(chunks, dt, bias, rates)
    firsts = carry(chunks, x, b, steps, decays, state, few=_FEW, per_group=heads // groups)
    (number, _, count), (block, warps) = chunks.grid, chunks.beside()
    blocks = triton.cdiv(columns, block)
    _results[(number * blocks, heads, count)](
        x, b, c, gate, skip, steps, firsts, sequences.starts, out, blocks, columns, x.stride(0),
        b.stride(0), c.stride(0), gate.stride(0), heads, STATES=states, PER_GROUP=heads // groups,
        GATED=gated, BLOCK=block, WAY=chunks.way, num_warps=warps, num_stages=1, **chunks.how,
    )  # fmt: skip
    return out
