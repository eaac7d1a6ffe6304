"""Numbers as 8-bit integers with a scale for 128 columns of a row: weights and activations."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.cuda.kernels.packed.quantize import rounded

BLOCK = 128
LEAST = 16  # scales of x are there for as many rows


@triton.jit
def _to_bytes(
    x, weight, values, scales, width, eps, STRIDE, BLOCKS: tl.constexpr, NORM: tl.constexpr,
    WEIGHT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One row. STRIDE: between a row's scales of two blocks."""
    if PDL:
        gdc_launch_dependents()
    row = tl.program_id(0)
    b = tl.arange(0, BLOCKS)
    k = b[:, None] * 128 + tl.arange(0, 128)[None, :]
    ok = k < width
    if WEIGHT:
        w = tl.load(weight + k, mask=ok, other=0.0)
    if PDL:
        gdc_wait()
    at = row.to(tl.int64) * width + k
    v = tl.load(x + at, mask=ok, other=0.0).to(tl.float32)
    if NORM:
        v = v * tl.rsqrt(tl.sum(tl.sum(v * v, 1), 0) / width + eps)
    if WEIGHT:
        v = v * w
    q, s, _ = rounded(v)
    tl.store(values + at, q.to(tl.int8), mask=ok)
    tl.store(scales + b * STRIDE + row, s, mask=b * 128 < width)


def to_bytes(
    x: Tensor, norm: tuple[Tensor | None, float] | None = None, *, pdl: bool = False
) -> tuple[Tensor, Tensor]:
    """x [M, width], width a multiple of 128, after an RMS norm (weight or None, eps): int8 values
    [M, width], and float32 scales [width / 128, M filled up to a power of two from 16 on]."""
    weight, eps = (None, 0.0) if norm is None else norm
    m, width = x.shape
    assert width % BLOCK == 0
    filled = max(LEAST, power_of_two(m))
    values = torch.empty((m, width), dtype=torch.int8, device=x.device)
    scales = torch.empty((width // BLOCK, filled), dtype=torch.float32, device=x.device)
    blocks = power_of_two(width // BLOCK)
    if m:
        _to_bytes[(m,)](
            x, weight, values, scales, width, eps, filled, BLOCKS=blocks, NORM=norm is not None,
            WEIGHT=weight is not None, num_warps=max(1, min(16, blocks // 4)), **dependent(pdl),
        )  # fmt: skip
    return values, scales


def empty_integers(rows: int, cols: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
    """Memory for a matrix, cols a multiple of 128: int8 [rows, cols] and float32
    [cols / 128, rows]."""
    values = torch.empty((rows, cols), dtype=torch.int8, device=device)
    return values, torch.empty((cols // BLOCK, rows), dtype=torch.float32, device=device)


def integer_bytes(rows: int, cols: int) -> int:
    """Bytes of `empty_integers`."""
    return rows * cols + 4 * rows * (cols // BLOCK)


def write_integers(floats: Tensor, to: tuple[Tensor, Tensor], start: int) -> None:
    """Write rows float32 [rows, cols], which are lost, to a matrix from row `start` on: each number
    is rounded to a 127th of the largest of its block."""
    rows = slice(start, start + len(floats))
    blocks = floats.view(len(floats), -1, BLOCK)
    scales = blocks.abs().amax(2) / 127
    blocks /= torch.where(scales > 0, scales, 1.0)[..., None]
    to[0][rows] = blocks.round_().view(floats.shape)
    to[1][:, rows] = scales.t()
