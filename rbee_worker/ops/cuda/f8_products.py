"""Products of many rows with matrices of 8-bit floats, on tensor cores in 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from rbee_worker.ops.cuda.kernels.f8 import quantize_f8
from rbee_worker.ops.cuda.kernels.skinny import FEW
from rbee_worker.ops.cuda.matrix import DeviceMatrix


def can_multiply_f8(x: Tensor, matrix: DeviceMatrix) -> bool:
    """Whether the GPU multiplies these in 8 bits: from compute capability 8.9 on, whole tiles; or
    Triton's interpreter, few rows."""
    return (
        matrix.scales is not None
        and x.shape[0] > 1
        and x.dtype in (torch.bfloat16, torch.float16)
        and (
            torch.cuda.get_device_capability(x.device) >= (8, 9) if x.is_cuda else x.shape[0] <= FEW
        )
        and matrix.rows % 16 == 0
        and matrix.cols % 16 == 0
    )


def multiply_f8(
    x: Tensor,
    matrix: DeviceMatrix,
    *,
    norm: tuple[Tensor | None, float] | None = None,
    pdl: bool,
) -> Tensor:
    """x [N, cols] times the transposed matrix, each row of x rounded to 8-bit floats with a scale
    of its own: [N, rows], rounded to bf16, in x's dtype. norm: of x, before the product."""
    assert matrix.dense is not None
    assert matrix.scales is not None
    values, scales = quantize_f8(x, norm, pdl=pdl)
    y = torch._scaled_mm(
        values,
        matrix.dense.t(),
        scale_a=scales[:, None],
        scale_b=matrix.scales[None],
        out_dtype=torch.bfloat16,
        use_fast_accum=False,
    )
    return y.to(x.dtype)
