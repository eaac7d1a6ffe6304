"""Activations as int8 numbers in blocks of 32 with a float32 scale.

An RMS norm before a product needs no pass of its own: rows are quantized times the norm's weight,
the sums of squares of the blocks are kept, and the product scales its result by the norm's factor.
So every block is quantized without the others, here or at the end of the product that made it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.activations import activate
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two
from rbee_worker.ops.operands import Activation

BLOCK, CHUNK = 32, 64
_PROGRAM_BLOCKS = 32


@dataclass(frozen=True)
class Quantized:
    """Rows of `cols` numbers: x[n, k] is about values[n, k] * scale[n, k / 32], before a norm.

    values: int8 [N, cols rounded up to 64], zero in the filled up place. scale, sum: float32
    [N, blocks]; sum is scale times the sum of a block's values. squares: float32 [N, blocks], the
    sums of squares of the numbers before the norm's weight, or None where no norm follows; eps: the
    norm's.
    """

    values: Tensor
    scale: Tensor
    sum: Tensor
    squares: Tensor | None
    eps: float
    cols: int


def rows_together(n: int) -> int:
    """How many rows of n a program of a product computes: 1, 2, 4 or 8."""
    return min(8, power_of_two(n))


def empty_quantized(
    rows: int, cols: int, device: torch.device, *, norm_eps: float | None = None
) -> Quantized:
    """Memory for `rows` rows of `cols` numbers; norm_eps: an RMS norm follows.

    It goes on for what is missing in the last group of `rows_together`: a product reads that, and
    computes what nobody needs. It is zero there, as sums of what memory happened to hold overflow.
    """
    group = rows_together(max(rows, 1))
    whole = -(-rows // group) * group
    width = -(-cols // CHUNK) * CHUNK
    blocks = width // BLOCK
    # A product that writes its result here fills whole blocks, but not a block beyond them.
    make = torch.zeros if width - cols >= BLOCK or whole > rows else torch.empty
    numbers = make((2 if norm_eps is None else 3, whole, blocks), device=device)[:, :rows]
    return Quantized(
        make((whole, width), dtype=torch.int8, device=device)[:rows],
        numbers[0],
        numbers[1],
        None if norm_eps is None else numbers[2],
        norm_eps or 0.0,
        cols,
    )


@triton.jit
def rounded(v):
    """Blocks [blocks, 32] of float32: int32 numbers from -127 to 127, scales [blocks], and scales
    times sums. Nan or infinity in a block makes its scale nan or infinite, so neither is lost."""
    size = v.to(tl.int32, bitcast=True) & 0x7FFFFFFF  # ordered as |v|, with nan above infinity
    largest = tl.max(size, 1).to(tl.float32, bitcast=True)
    inverse = 127.0 / tl.where(largest > 0, largest, 1.0)
    q = tl.floor(v * inverse[:, None] + 0.5).to(tl.int32)
    scale = largest * (1.0 / 127.0)
    return q, scale, scale * tl.sum(q, 1).to(tl.float32)


@triton.jit
def _quantize(
    x, weight, values, scales, sums, squares, row_stride, cols, BLOCKS: tl.constexpr,
    WIDTH: tl.constexpr, WEIGHT: tl.constexpr, SQUARES: tl.constexpr, GATED: tl.constexpr,
    KIND: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BLOCKS blocks of row program_id(1). WIDTH: the row's numbers, filled up."""
    if PDL:
        gdc_launch_dependents()
    n = tl.program_id(1)
    b = tl.program_id(0) * BLOCKS + tl.arange(0, BLOCKS)
    k = b[:, None] * 32 + tl.arange(0, 32)[None, :]
    if WEIGHT:
        w = tl.load(weight + k, mask=k < cols, other=0.0).to(tl.float32)
    if PDL:
        gdc_wait()
    row = x + n.to(tl.int64) * row_stride
    v = tl.load(row + k, mask=k < cols, other=0.0).to(tl.float32)
    if GATED:
        v = activate(v, KIND) * tl.load(row + cols + k, mask=k < cols, other=0.0).to(tl.float32)
    inside = b * 32 < WIDTH
    at = n * (WIDTH // 32) + b
    if SQUARES:
        tl.store(squares + at, tl.sum(v * v, 1), mask=inside)
    if WEIGHT:
        v = v * w
    q, scale, total = rounded(v)
    tl.store(values + n * WIDTH + k, q.to(tl.int8), mask=inside[:, None])
    tl.store(scales + at, scale, mask=inside)
    tl.store(sums + at, total, mask=inside)


def quantize_rows(
    x: Tensor,
    norm: tuple[Tensor | None, float] | None = None,
    *,
    gated: Activation | None = None,
    pdl: bool = False,
) -> Quantized:
    """x [N, K] (any stride between rows) quantized for a product; a row's result is its own.

    norm: (weight [K] or None, eps) of an RMS norm between x and the product. gated: x [N, 2 * K]
    holds gates, then ups, and act(gate) * up is quantized.
    """
    rows, cols = x.shape[0], x.shape[1] // (2 if gated else 1)
    out = empty_quantized(rows, cols, x.device, norm_eps=None if norm is None else norm[1])
    if rows == 0:
        return out
    assert x.stride(1) == 1
    width = out.values.shape[1]
    weight = None if norm is None else norm[0]
    _quantize[(triton.cdiv(width // BLOCK, _PROGRAM_BLOCKS), rows)](
        x, weight, out.values, out.scale, out.sum, out.squares, x.stride(0), cols,
        BLOCKS=_PROGRAM_BLOCKS, WIDTH=width, WEIGHT=weight is not None,
        SQUARES=norm is not None, GATED=gated is not None, KIND=gated or "none",
        num_warps=4, **dependent(pdl),
    )  # fmt: skip
    return out
