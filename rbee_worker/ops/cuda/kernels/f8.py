"""Rows rounded to 8-bit floats (e4m3), each with a scale of its own."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two


@triton.jit
def _quantize(x, out, scales, width, BLOCK: tl.constexpr, PDL: tl.constexpr):
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    c = tl.arange(0, BLOCK)
    a = tl.load(x + row * width + c, mask=c < width, other=0.0).to(tl.float32)
    largest = tl.max(tl.abs(a), 0)
    scale = tl.where(largest > 0, largest / 448.0, 1.0)
    tl.store(out + row * width + c, (a / scale).to(out.dtype.element_ty), mask=c < width)
    tl.store(scales + row, scale)


def quantize_f8(x: Tensor, *, pdl: bool = False) -> tuple[Tensor, Tensor]:
    """x [N, width] as 8-bit floats, and float32 scales [N]: x is about values * scales."""
    n, width = x.shape
    out = torch.empty((n, width), dtype=torch.float8_e4m3fn, device=x.device)
    scales = torch.empty(n, dtype=torch.float32, device=x.device)
    if n:
        block = power_of_two(width)
        _quantize[(n,)](
            x, out, scales, width, BLOCK=block, num_warps=max(1, min(16, block // 512)),
            **dependent(pdl),
        )  # fmt: skip
    return out, scales
