"""RMS norm and layer norm of rows or of each head in them, with what precedes and follows them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.each import Step, by_columns, stepped
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two


@triton.jit
def _norm(
    x, added, weight, bias, out, total, other, other_row, width, heads, own, eps,
    BLOCK: tl.constexpr, LAYER: tl.constexpr, ADD: tl.constexpr, WEIGHT: tl.constexpr,
    BIAS: tl.constexpr, OP: tl.constexpr, KIND: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    if PDL:
        gdc_launch_dependents()
    cols = tl.arange(0, BLOCK)
    ok = cols < width
    part = tl.program_id(0) % own * width
    if WEIGHT:
        w = tl.load(weight + part + cols, mask=ok, other=0.0)
    if BIAS:
        b = tl.load(bias + part + cols, mask=ok, other=0.0)
    if PDL:
        gdc_wait()
    at = tl.program_id(0).to(tl.int64) * width + cols
    a = tl.load(x + at, mask=ok, other=0.0)
    if ADD:
        sums = a.to(tl.float32) + tl.load(added + at, mask=ok, other=0.0).to(tl.float32)
        a = sums.to(total.dtype.element_ty)
        tl.store(total + at, a, mask=ok)
    a = a.to(tl.float32)
    if LAYER:
        a = a - tl.sum(a, 0) / width
        a = tl.where(ok, a, 0.0)
    y = a * tl.rsqrt(tl.sum(a * a, 0) / width + eps)
    if WEIGHT:
        y = y * w
    if BIAS:
        y = y + b
    if OP != "none":
        row = tl.program_id(0) // heads
        y = stepped(
            y, other + tl.program_id(0) % heads * width, other_row, row.to(tl.int64), cols, ok, 1.0,
            OP, KIND,
        )  # fmt: skip
    tl.store(out + at, y.to(out.dtype.element_ty), mask=ok)


def norm(
    x: Tensor,
    weight: Tensor | None,
    eps: float,
    *,
    form: torch.dtype,
    bias: Tensor | None = None,
    layer: bool = False,
    heads: int = 1,
    added: Tensor | None = None,
    sum_form: torch.dtype | None = None,
    then: tuple[Step, Tensor] | None = None,
    pdl: bool = False,
) -> tuple[Tensor, Tensor]:
    """(norm of x + added, x + added), both [N, width]; without `added`, the second is x itself.

    Computed in float32 over each of `heads` equal parts of a row; the norm is stored as `form`, the
    sum as `sum_form` (None: x's) and read back before it is normalised. weight, bias: float32
    [width / heads], or [width], where each head has its own. then: a step "multiply" or "add" after
    the norm, and its operand [N, width].
    """
    x = x.contiguous()
    n, width = x.shape
    out = torch.empty((n, width), dtype=form, device=x.device)
    total = x if added is None else torch.empty_like(x, dtype=sum_form or x.dtype)
    part = width // heads
    block = power_of_two(part)
    sizes = {len(one) for one in (weight, bias) if one is not None} or {part}
    assert sizes in ({part}, {width})
    own = sizes.pop() // part  # heads with weights of their own
    step, other = then or (Step("none"), None)
    other = None if other is None else by_columns(other)
    if n:
        _norm[(n * heads,)](
            x, None if added is None else added.contiguous(), weight, bias, out, total, other,
            0 if other is None else other.stride(0), part, heads, own, eps, BLOCK=block,
            LAYER=layer, ADD=added is not None, WEIGHT=weight is not None, BIAS=bias is not None,
            OP=step.op, KIND=step.kind, num_warps=max(1, min(8, block // 256)), **dependent(pdl),
        )  # fmt: skip
    return out, total
