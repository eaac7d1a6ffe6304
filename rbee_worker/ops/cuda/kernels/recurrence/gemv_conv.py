"""A product with one row of x, and the short convolution of some of its columns, in one launch:
how a state space begins a decoding step of one sequence."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops import Activation
from rbee_worker.ops.cuda.kernels.activations import activate
from rbee_worker.ops.cuda.kernels.gemv import GemvShape, first_tiles, gemv_shape, row_product
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two


@triton.jit
def _gemv_conv(
    x, w, scales, norm, bias, taps, taps_bias, state, slots, out, N, eps, first, width,
    K: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr, SCALED: tl.constexpr,
    BIAS: tl.constexpr, TAPS: tl.constexpr, KP: tl.constexpr, TAPS_BIAS: tl.constexpr,
    KIND: tl.constexpr, EVEN: tl.constexpr, STAGES: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """The program of a row of the matrix also has that column of the convolution, if it is one of
    `width` from `first` on, and its column of the state, which it shifts."""
    if PDL:
        gdc_launch_dependents()
    rows = tl.program_id(0) * BN + tl.arange(0, BN)
    in_rows = rows < N
    w0, u0, g0 = first_tiles(w, norm, rows, N, K, BK, NORM, False, EVEN)
    col = rows - first
    inside = (col >= 0) & (col < width)
    i = tl.arange(0, KP)
    at = i[:, None] * width + col[None, :]
    old = (i < TAPS - 1)[:, None] & inside[None, :]
    old_taps = tl.load(taps + at, mask=old, other=0.0)
    new_tap = tl.load(taps + (TAPS - 1) * width + col, mask=inside, other=0.0)
    # A step's slots are copied to the device before its first kernel starts.
    kept = state + tl.load(slots) * (TAPS - 1) * width
    if PDL:
        gdc_wait()
    before = tl.load(kept + at, mask=old, other=0.0)
    y, _ = row_product(x, w, norm, w0, u0, g0, rows, N, eps, K, BK, NORM, False, EVEN, STAGES)
    if SCALED:
        y = y * tl.load(scales + rows, mask=in_rows, other=0.0)
    if BIAS:
        y += tl.load(bias + rows, mask=in_rows, other=0.0)
    y = y.to(out.dtype.element_ty).to(tl.float32)  # as a convolution of its own reads it
    z = tl.sum(old_taps * before, 0) + new_tap * y
    if TAPS_BIAS:
        z += tl.load(taps_bias + col, mask=inside, other=0.0)
    z = tl.where(inside, activate(z, KIND), y)
    tl.store(out + rows, z.to(out.dtype.element_ty), mask=in_rows)
    tl.debug_barrier()  # all of the state is read before any of it is written
    tl.store(kept + at - width, before, mask=old & (i > 0)[:, None])
    tl.store(kept + (TAPS - 2) * width + col, y, mask=inside)


def gemv_conv(
    x: Tensor,
    weight: Tensor,
    first: int,
    taps: Tensor,
    taps_bias: Tensor | None,
    state: Tensor,
    slots: Tensor,
    *,
    kind: Activation | None,
    form: torch.dtype,
    scales: Tensor | None = None,
    norm: tuple[Tensor | None, float] | None = None,
    bias: Tensor | None = None,
    pdl: bool = False,
    shape: GemvShape | None = None,
) -> Tensor:
    """`gemv.gemv` of x [1, K] with weight [rows, K], scales, norm and bias: [1, rows] in `form`; of
    its columns those from `first` on, as many as the state has, are then convolved with the rows
    before, as `conv.causal_conv` does with taps, taps_bias, state and kind. slots: int64 [1].
    """
    n, k = weight.shape
    width = state.shape[2]
    count = taps.numel() // width
    assert x.shape == (1, k)
    assert state.shape[1] == count - 1 > 0
    assert 0 <= first <= n - width
    out = torch.empty((1, n), dtype=form, device=x.device)
    shape = shape or gemv_shape(n, k, False, weight.dtype.itemsize)
    gain = None if norm is None else norm[0]
    if norm is not None and gain is None:
        gain = torch.ones(k, dtype=torch.float32, device=x.device)
    _gemv_conv[(triton.cdiv(n, shape.rows),)](
        x, weight, scales, gain, bias, taps, taps_bias, state, slots, out, n,
        0.0 if norm is None else norm[1], first, width, K=k, BN=shape.rows, BK=shape.cols,
        NORM=norm is not None, SCALED=scales is not None, BIAS=bias is not None, TAPS=count,
        KP=power_of_two(count - 1), TAPS_BIAS=taps_bias is not None, KIND=kind or "none",
        EVEN=k % shape.cols == 0 and n % shape.rows == 0, STAGES=max(shape.stages, 1),
        num_warps=shape.warps, **dependent(pdl),
    )  # fmt: skip
    return out
