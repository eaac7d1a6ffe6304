"""Chunks of rows for recurrences of prompts: the states before each, and the results of all.

In a chunk of 64 rows what rows give each other is a product of matrices, which needs no state. So
a prompt takes three launches or more: what needs no state, for all chunks side by side; the states
before each chunk, from chunk to chunk in order (`carry` here, where they only decay); the results
of all chunks, side by side (`results`).

Chunk k of sequence b has place starts[b] // 64 + b + k in the tensors between these: no two have
the same, and there are at most N // 64 + B; each place has a number for every head.

A program that goes from chunk to chunk keeps the states of some columns of a head transposed,
[columns, states], in registers: so columns are rows of its products, of which there may be few.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cells import CELL
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two, shared_memory
from rbee_worker.ops.cuda.kernels.recurrence.exact import dot, way
from rbee_worker.ops.cuda.kernels.recurrence.rows import Sequences
from rbee_worker.ops.cuda.kernels.recurrence.segments import places

ROWS = 64  # of a chunk
FROM = 64  # rows of the longest sequence from which on chunks are faster


class Tile(NamedTuple):
    """Columns of a program, its warps, and stages of its loop."""

    columns: int
    warps: int
    stages: int = 1


MANY = Tile(64, 4, 2)  # of kernels that go from chunk to chunk, where that fills a GPU
_PROGRAMS = 264  # that do


class Chunks:
    """The chunks of a step. heads: of the recurrence; columns, states: of a head; dtype: the
    model's."""

    def __init__(
        self, sequences: Sequences, count: int, *, heads: int, columns: int, states: int,
        dtype: torch.dtype, device: torch.device, pdl: bool,
    ) -> None:  # fmt: skip
        """count: rows of the step."""
        self.sequences, self.heads, self.columns, self.device = sequences, heads, columns, device
        self.padded = max(16, power_of_two(states))
        self.count = places(sequences, count, ROWS) * heads
        self.how: dict[str, Any] = {"ROWS": ROWS, "SP": self.padded, **dependent(pdl)}
        self.way, self.element = way(dtype), dtype.itemsize
        self.cells = {"STATES": states, "CELLS": triton.cdiv(columns, CELL), "CELL": CELL}
        # What only results are made of needs no more bits than these have.
        self.brief = torch.bfloat16 if self.way == "halves" else torch.float32

    @property
    def grid(self) -> tuple[int, int, int]:
        """A program for each chunk of each head of each sequence."""
        number = triton.cdiv(max(self.sequences.longest, 1), ROWS)
        return number, self.heads, self.sequences.number

    def empty(self, *shape: int, brief: bool = False) -> Tensor:
        """[count, *shape], in float32 or in the brief type."""
        form = self.brief if brief else torch.float32
        return torch.empty((self.count, *shape), dtype=form, device=self.device)

    def firsts(self) -> Tensor:
        """Where the states before each chunk go."""
        return self.empty(self.columns, self.padded, brief=True)

    def tile(self, few: Tile) -> Tile:
        """For a kernel that goes from chunk to chunk; few: where there are few programs."""
        programs = self.sequences.number * self.heads * triton.cdiv(self.columns, MANY.columns)
        return MANY if programs >= _PROGRAMS and self.padded >= MANY.columns else few

    def beside(self) -> tuple[int, int]:
        """Columns and warps of a program of a kernel that computes all chunks side by side.

        With fewer than 64 columns tensor cores are not used by groups of four warps, of which
        Triton 3.6 makes wrong products then.
        """
        few = min(self.columns, self.padded) < 64
        return min(64, max(16, power_of_two(self.columns))), 2 if few else 4

    def in_order(self, few: Tile, *, read: int) -> tuple[tuple[int, int, int], dict[str, Any]]:
        """The grid of a kernel that goes from chunk to chunk, and how it is launched, with as many
        stages of its loop as shared memory holds. few: its tile where there are few programs; read:
        the bytes of a chunk that it reads beside the values."""
        tile = self.tile(few)
        block = min(tile.columns, max(16, power_of_two(self.columns)))
        room = shared_memory() - 4 * block * (2 * self.padded + ROWS)
        stages = max(1, min(tile.stages, 1 + room // (read + ROWS * block * self.element)))
        how = {**self.how, **self.cells, "BLOCK": block, "WAY": self.way, "STAGES": stages}
        grid = triton.cdiv(self.columns, block), self.heads, self.sequences.number
        return grid, {**how, "num_warps": tile.warps}


@triton.jit
def begin(starts, seq, chunk, head, heads, ROWS: tl.constexpr):
    """Of a chunk: its place, its first row, and the first row that is not its own."""
    start, end = tl.load(starts + seq), tl.load(starts + seq + 1)
    place = (start // ROWS + seq + chunk) * heads + head
    start += chunk * ROWS
    return place, start, tl.minimum(end, start + ROWS)


@triton.jit
def state_at(
    state, slot, head, heads, column, n, STATES: tl.constexpr, CELLS: tl.constexpr,
    CELL: tl.constexpr,
):  # fmt: skip
    """Addresses of a head's states in its slot, [columns, states], and which of them exist."""
    at = state + (slot * heads + head) * CELLS * STATES * CELL
    at += ((column // CELL)[:, None] * STATES + n[None, :]) * CELL + (column % CELL)[:, None]
    return at, (column < CELLS * CELL)[:, None] & (n < STATES)[None, :]


@triton.jit
def _carry(
    values, keys, steps, decays, state, slots, starts, firsts, columns, value_stride, key_stride,
    heads, STATES: tl.constexpr, CELLS: tl.constexpr, PER_GROUP: tl.constexpr,
    PREPARED: tl.constexpr, SP: tl.constexpr, CELL: tl.constexpr, ROWS: tl.constexpr,
    BLOCK: tl.constexpr, WAY: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (blocks of columns, heads, sequences); see `carry`."""
    if PDL:
        gdc_launch_dependents()
    head, seq = tl.program_id(1), tl.program_id(2)
    n, r = tl.arange(0, SP), tl.arange(0, ROWS)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)  # of the head
    inside, live = column < columns, n < STATES
    col, shared = head * columns + column, (head // PER_GROUP) * STATES + n
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
        at = values + t[None, :] * value_stride + col[:, None]
        value = tl.load(at, mask=inside[:, None] & there[None, :], other=0.0)
        if PREPARED:
            key = tl.load(keys + (place * ROWS + r)[:, None] * SP + n[None, :])
            h = tl.load(decays + place * SP + n)[None, :] * h + dot(value, key, WAY)
        else:
            at = keys + t[:, None] * key_stride + shared[None, :]
            key = tl.load(at, mask=there[:, None] & live[None, :], other=0.0)
            at = steps + place * 4 * ROWS + r
            scale = tl.load(at) * tl.load(at + 3 * ROWS)
            h = tl.load(decays + place) * h + dot(value.to(tl.float32) * scale[None, :], key, WAY)
    tl.store(kept, h, mask=own)


def carry(
    chunks: Chunks,
    values: Tensor,
    keys: Tensor,
    steps: Tensor | None,
    decays: Tensor,
    state: Tensor,
    *,
    few: Tile,
    per_group: int = 1,
) -> Tensor:
    """The states before each chunk, [count, columns, padded]; `state` becomes that behind the last.

    A chunk's states are decayed, and the product of its keys with its values comes to them. values
    [N, heads * columns]. keys: of the model [N, groups * states], per_group heads share them; then
    steps and decays are those of `steps.write_steps`. Or, with steps None, keys are float32 [count,
    64, padded] and decays [count, padded].
    """
    firsts = chunks.firsts()
    element = chunks.element if steps is not None else 4
    grid, how = chunks.in_order(few, read=ROWS * chunks.padded * element)
    _carry[grid](
        values, keys, steps, decays, state, chunks.sequences.slots, chunks.sequences.starts,
        firsts, chunks.columns, values.stride(0), keys.stride(0), chunks.heads,
        PER_GROUP=per_group, PREPARED=steps is None, **how,
    )  # fmt: skip
    return firsts


@triton.jit
def _lower(at, place, i, rows, ROWS: tl.constexpr):
    """A matrix of a chunk with that many rows; what is above its diagonal is zero."""
    to = at + place * ROWS * ROWS + i[:, None] * ROWS + i[None, :]
    return tl.load(to, mask=(i[:, None] >= i[None, :]) & (i < rows)[:, None], other=0.0)


@triton.jit
def _results(
    queries, scales, of_new, new, of_value, v, owns, firsts, starts, out, own, blocks, columns,
    query_stride, v_stride, heads, STATES: tl.constexpr, PER_GROUP: tl.constexpr,
    PREPARED: tl.constexpr, NEW: tl.constexpr, VALUE: tl.constexpr, OWN: tl.constexpr,
    SP: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr, WAY: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Grid (chunks * blocks of columns, heads, sequences); see `results`."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    head, seq = tl.program_id(1), tl.program_id(2)
    chunk, block = tl.program_id(0) // blocks, tl.program_id(0) % blocks
    n, r = tl.arange(0, SP), tl.arange(0, ROWS)
    column = block * BLOCK + tl.arange(0, BLOCK)
    inside, live = column < columns, n < STATES
    place, start, end = begin(starts, seq, chunk, head, heads, ROWS)
    if start >= end:
        return
    t = start + r
    there, rows = t < end, end - start
    at = firsts + (place * columns + column)[None, :] * SP + n[:, None]
    h = tl.load(at, mask=inside[None, :], other=0.0)
    if PREPARED:
        query = tl.load(queries + (place * ROWS + r)[:, None] * SP + n[None, :])
        y = dot(query, h, WAY)
    else:
        shared = (head // PER_GROUP) * STATES + n
        at = queries + t[:, None] * query_stride + shared[None, :]
        query = tl.load(at, mask=there[:, None] & live[None, :], other=0.0)
        y = tl.load(scales + place * ROWS + r)[:, None] * dot(query, h, WAY)
    if NEW:
        at = new + (place * ROWS + r)[:, None] * columns + column[None, :]
        y += dot(_lower(of_new, place, r, rows, ROWS), tl.load(at, mask=inside[None, :]), WAY)
    of_out = there[:, None] & inside[None, :]
    if VALUE:
        at = v + t[:, None] * v_stride + (head * columns + column)[None, :]
        value = tl.load(at, mask=of_out, other=0.0)
        y += dot(_lower(of_value, place, r, rows, ROWS), value, WAY)
    to = t[:, None] * columns * heads + (head * columns + column)[None, :]
    tl.store(out + to, y.to(out.dtype.element_ty), mask=of_out)
    if OWN:
        z = tl.load(owns + place * ROWS + r)[:, None] * value.to(tl.float32)
        tl.store(own + to, z.to(own.dtype.element_ty), mask=of_out)


def results(
    chunks: Chunks,
    queries: Tensor,
    scales: Tensor | None,
    firsts: Tensor,
    out: Tensor,
    *,
    new: tuple[Tensor, Tensor] | None = None,
    value: tuple[Tensor, Tensor] | None = None,
    own: tuple[Tensor, Tensor] | None = None,
    per_group: int = 1,
) -> None:
    """Fill out [N, heads * columns] with queries times states, and lower triangular matrices times
    what rows bring.

    queries: of the model [N, groups * states], per_group heads share them, with scales float32
    [count, 64]; or, with scales None, [count, 64, padded]. new: matrices [count, 64, 64] and
    [count, 64, columns]; value: such matrices and v [N, heads * columns]. own: float32 [count, 64],
    factors on v, and where these products go, of out's shape.
    """
    block, warps = chunks.beside()
    blocks = triton.cdiv(chunks.columns, block)
    of_new, brought = new or (queries, queries)
    of_value, v = value or (queries, queries)
    owns, own_to = own or (firsts, out)
    number, heads, count = chunks.grid
    _results[(number * blocks, heads, count)](
        queries, scales, of_new, brought, of_value, v, owns, firsts, chunks.sequences.starts, out,
        own_to, blocks, chunks.columns, queries.stride(0), v.stride(0), heads,
        STATES=chunks.cells["STATES"], PER_GROUP=per_group, PREPARED=scales is None,
        NEW=new is not None, VALUE=value is not None, OWN=own is not None, BLOCK=block,
        WAY=chunks.way, num_warps=warps, num_stages=1, **chunks.how,
    )  # fmt: skip
