"""Rows looked up in tables: embeddings, angles of positions, tokens that were just drawn."""

from __future__ import annotations

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
