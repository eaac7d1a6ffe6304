"""Rows rounded to 8-bit floats (e4m3), each with a scale of its own."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two


@triton.jit
def _quantize(
    x, weight, out, scales, width, eps,
    BLOCK: tl.constexpr, NORM: tl.constexpr, WEIGHT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    if WEIGHT:
        w = tl.load(weight + c, mask=c < width, other=0.0)
    if PDL:
        gdc_wait()
    a = tl.load(x + row * width + c, mask=c < width, other=0.0).to(tl.float32)
    if NORM:
        a = a * tl.rsqrt(tl.sum(a * a, 0) / width + eps)
    if WEIGHT:
        a = a * w
    largest = tl.max(tl.abs(a), 0)
    scale = tl.where(largest > 0, largest / 448.0, 1.0)
    tl.store(out + row * width + c, (a / scale).to(out.dtype.element_ty), mask=c < width)
    tl.store(scales + row, scale)


def quantize_f8(
    x: Tensor, norm: tuple[Tensor | None, float] | None = None, *, pdl: bool = False
) -> tuple[Tensor, Tensor]:
    """x [N, width] as 8-bit floats, and float32 scales [N]: x is about values * scales.

    norm: (weight float32 [width] or None, eps) of an RMS norm of x before.
    """
    weight, eps = (None, 0.0) if norm is None else norm
    n, width = x.shape
    out = torch.empty((n, width), dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(n, dtype=torch.float32, device=x.device)
    if n:
        block = power_of_two(width)
        _quantize[(n,)](
            x, weight, out, scales, width, eps, BLOCK=block, NORM=norm is not None,
            WEIGHT=weight is not None, num_warps=max(1, min(16, block // 512)), **dependent(pdl),
        )  # fmt: skip
    return out, scales
