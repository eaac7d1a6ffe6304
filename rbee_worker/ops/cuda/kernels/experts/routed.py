"""A router in two launches: the norm before it with its product, then the choice of experts.

Every program computes a few experts' logits of one row, from the norm that it computes again; one
of them keeps the norm. The choice in the same launch, by the program that ends last, was measured:
waiting for the others and reading their logits took as long as two launches.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops import Routing
from rbee_worker.ops.cuda.kernels.experts.route import route
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two

MOST_ROWS = 8  # each row reads the router's matrix once more, from the L2 cache
_PROGRAMS = 128  # of a row


@triton.jit
def _logits(
    x, norm, w, row_scales, bias, normed, logits, eps, COUNT: tl.constexpr, K: tl.constexpr,
    BN: tl.constexpr, BK: tl.constexpr, NORM: tl.constexpr, WEIGHT: tl.constexpr,
    SCALED: tl.constexpr, BIAS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """BN experts' logits of one row, float32 [N, COUNT]. NORM: of x / rms(x), times `norm`; program
    0 keeps that in `normed`. SCALED: factors on the matrix's rows."""
    if PDL:
        gdc_launch_dependents()
    tile, row = tl.program_id(0), tl.program_id(1).to(tl.int64)
    mine, cols = tile * BN + tl.arange(0, BN), tl.arange(0, BK)
    in_rows, in_cols = mine < COUNT, cols < K
    wp = w + mine[:, None] * K + cols[None, :]
    a = tl.load(wp, mask=in_rows[:, None] & in_cols[None, :], other=0.0)
    if WEIGHT:
        g = tl.load(norm + cols, mask=in_cols, other=0.0)
    if PDL:
        gdc_wait()
    v = tl.load(x + row * K + cols, mask=in_cols, other=0.0).to(tl.float32)
    if NORM:
        v = v * tl.rsqrt(tl.sum(v * v, 0) / K + eps)
        if WEIGHT:
            v = v * g
        rounded = v.to(normed.dtype.element_ty)
        if tile == 0:
            tl.store(normed + row * K + cols, rounded, mask=in_cols)
        v = rounded.to(tl.float32)
    y = tl.sum(a.to(tl.float32) * v[None, :], 1)
    if SCALED:
        y = y * tl.load(row_scales + mine, mask=in_rows, other=0.0)
    if BIAS:
        y += tl.load(bias + mine, mask=in_rows, other=0.0)
    tl.store(logits + row * COUNT + mine, y, mask=in_rows)


def routed(
    x: Tensor,
    weight: Tensor,
    routing: Routing,
    *,
    norm: tuple[Tensor | None, float] | None = None,
    row_scales: Tensor | None = None,
    logits_bias: Tensor | None = None,
    bias: Tensor | None = None,
    scales: Tensor | None = None,
    form: torch.dtype | None = None,
    programs: int = _PROGRAMS,
    pdl: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The RMS norm of x [N, K] in `form` (None: x's type; without `norm` x itself), and which
    experts each row uses with which weights; see `route`.

    weight [experts, K], with row_scales float32 [experts] if it is in 8-bit floats. norm: (weight
    float32 [K] or None, eps). logits_bias: float32 [experts], added to the logits; bias and scales:
    as in `Ops.route`. programs: most of them for one row. A row's logits depend on the row and on
    `programs` only.
    """
    n, k = x.shape
    count = weight.shape[0]
    x = x.contiguous()
    normed = x if norm is None else torch.empty_like(x, dtype=form or x.dtype)
    logits = torch.empty((n, count), dtype=torch.float32, device=x.device)
    gain, eps = norm or (None, 0.0)
    each, block = power_of_two(triton.cdiv(count, programs)), power_of_two(k)
    if n:
        _logits[(triton.cdiv(count, each), n)](
            x, gain, weight, row_scales, logits_bias, normed, logits, eps, COUNT=count, K=k,
            BN=each, BK=block, NORM=norm is not None, WEIGHT=gain is not None,
            SCALED=row_scales is not None, BIAS=logits_bias is not None,
            num_warps=8 if block >= 4096 or each * block >= 8192 else 4, **dependent(pdl),
        )  # fmt: skip
    return normed, *route(logits, routing, bias, scales, pdl=pdl)
