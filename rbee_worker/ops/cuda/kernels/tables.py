"""Rows looked up in tables: embeddings, angles of positions, tokens that were just drawn."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two

_BLOCK = 1024


@triton.jit
def _embed(table, tokens, out, cols, scale, BLOCK: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0)
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(tokens + row)
    x = tl.load(table + token * cols + c, mask=c < cols, other=0.0)
    x = (x.to(tl.float32) * scale).to(out.dtype.element_ty)
    tl.store(out + row.to(tl.int64) * cols + c, x, mask=c < cols)


def embed(table: Tensor, tokens: Tensor, *, scale: float = 1.0, pdl: bool = False) -> Tensor:
    """Rows of `table` [vocabulary, cols] for tokens int64 [N], times scale: [N, cols]"""
    n, cols = len(tokens), table.shape[1]
    out = torch.empty((n, cols), dtype=table.dtype, device=table.device)
    if n:
        _embed[(n, triton.cdiv(cols, _BLOCK))](
            table, tokens, out, cols, scale, BLOCK=_BLOCK, num_warps=4, **dependent(pdl)
        )
    return out


@triton.jit
def _angles(
    positions, frequencies, out, magnitude, half, BLOCK: tl.constexpr, PDL: tl.constexpr
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    angle = tl.load(positions + row).to(tl.float32) * tl.load(
        frequencies + c, mask=c < half, other=0.0
    )
    at = out + row * 2 * half + c
    tl.store(at, tl.cos(angle) * magnitude, mask=c < half)
    tl.store(at + half, tl.sin(angle) * magnitude, mask=c < half)


def angles(
    positions: Tensor, frequencies: Tensor, magnitude: float, *, pdl: bool = False
) -> Tensor:
    """Cosines of positions int64 [N] times frequencies float32 [half], then sines, all times
    magnitude: float32 [N, 2 * half]. An angle is rounded to float32, as in transformers."""
    n, half = len(positions), len(frequencies)
    out = torch.empty((n, 2 * half), dtype=torch.float32, device=positions.device)
    if n:
        _angles[(n,)](
            positions, frequencies, out, magnitude, half, BLOCK=power_of_two(half), num_warps=1,
            **dependent(pdl),
        )  # fmt: skip
    return out


@triton.jit
def _angles_by_length(
    positions, starts, lengths, frequencies, longer, constants, out, sequences, magnitude,
    longer_magnitude, switch, HALF: tl.constexpr, DYNAMIC: tl.constexpr, LONGER: tl.constexpr,
    ONE_ROW: tl.constexpr, BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program a row; ONE_ROW: row b is sequence b's."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    b = row
    if not ONE_ROW:
        before = 0
        for first in range(0, sequences, 64):
            index = first + tl.arange(0, 64)
            end = tl.load(starts + 1 + index, mask=index < sequences, other=row + 1)
            before += tl.sum((end <= row).to(tl.int32), 0)
        b = row * 0 + before
    length = tl.load(lengths + b)
    c = tl.arange(0, BLOCK)
    if DYNAMIC:
        theta, factor, original = (
            tl.load(constants), tl.load(constants + 1), tl.load(constants + 2)
        )  # fmt: skip
        stretch = factor * tl.maximum(length.to(tl.float64), original) / original - (factor - 1.0)
        base = tl.log(theta) + tl.log(stretch) * (HALF / (HALF - 1.0))
        frequency = tl.exp(base * (c.to(tl.float64) * -1.0 / HALF)).to(tl.float32)
    else:
        frequency = tl.load(frequencies + c, mask=c < HALF, other=0.0)
    if LONGER:
        is_long = length > switch
        others = tl.load(longer + c, mask=c < HALF, other=0.0)
        frequency = tl.where(is_long, others, frequency)
        magnitude = tl.where(is_long, longer_magnitude, magnitude)
    angle = tl.load(positions + row).to(tl.float32) * frequency
    at = out + row * 2 * HALF + c
    tl.store(at, tl.cos(angle) * magnitude, mask=c < HALF)
    tl.store(at + HALF, tl.sin(angle) * magnitude, mask=c < HALF)


class ByLength(NamedTuple):
    """How frequencies follow from a sequence's length; see `RopeSpec`. constants: float64, theta,
    factor and original length of `dynamic`; longer: float32 [half], frequencies of sequences longer
    than `switch`, whose cosines are times `magnitude`."""

    constants: Tensor | None
    longer: Tensor | None
    switch: int
    magnitude: float


def angles_by_length(
    positions: Tensor,
    frequencies: Tensor,
    magnitude: float,
    how: ByLength,
    seq_starts: Tensor,
    lengths: Tensor,
    *,
    one_row: bool,
    pdl: bool = False,
) -> Tensor:
    """As `angles`, with frequencies by the length of a row's sequence. seq_starts int64 [B + 1] and
    lengths int64 [B]: see `Batch`; one_row: every sequence has one row."""
    n, half = len(positions), len(frequencies)
    out = torch.empty((n, 2 * half), dtype=torch.float32, device=positions.device)
    if n:
        _angles_by_length[(n,)](
            positions, seq_starts, lengths, frequencies, how.longer, how.constants, out,
            len(lengths), magnitude, how.magnitude, how.switch, HALF=half,
            DYNAMIC=how.constants is not None, LONGER=how.longer is not None, ONE_ROW=one_row,
            BLOCK=power_of_two(half), num_warps=1, **dependent(pdl),
        )  # fmt: skip
    return out


@triton.jit
def _take(tokens, takes, drawn, count, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    row = tl.load(takes + i, mask=i < count, other=-1)
    token = tl.load(drawn + tl.maximum(row, 0), mask=row >= 0, other=0)
    tl.store(tokens + i, tl.maximum(token, 0), mask=row >= 0)


def take(tokens: Tensor, takes: Tensor, drawn: Tensor) -> None:
    """tokens[i] = drawn[takes[i]] where takes[i] is not -1, all int64; a draw without a result (-1)
    becomes token 0."""
    count = len(tokens)
    if count:
        _take[(triton.cdiv(count, 256),)](tokens, takes, drawn, count, BLOCK=256, num_warps=2)
