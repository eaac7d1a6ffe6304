"""Elementwise operations on rows, up to four of them in one launch, computed in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from rbee_worker.ops.cuda.kernels.activations import activate
from rbee_worker.ops.cuda.kernels.launch import dependent, power_of_two

MOST_STEPS = 4
_BLOCK = 1024


class Step(NamedTuple):
    """What becomes of x. "multiply": x * act(y) for an operand y of x's width, "weigh": for one of
    one column, "vector": for a float32 vector with a number for each column, without act; "add": x
    + y; "scale": x * number; "clip": cut to -number .. number; "softcap": number * tanh(x /
    number); "act": act(x). kind: the activation, `number` the number."""

    op: Literal["none", "multiply", "weigh", "vector", "add", "scale", "clip", "softcap", "act"]
    kind: str = "none"
    number: float = 1.0

    @property
    def takes(self) -> bool:
        """Whether it has an operand."""
        return self.op in ("multiply", "weigh", "vector", "add")


@triton.jit
def stepped(x, y, y_row, row, cols, ok, number, OP: tl.constexpr, KIND: tl.constexpr):
    """x after one `Step`."""
    if OP == "multiply":
        other = tl.load(y + row * y_row + cols, mask=ok, other=0.0).to(tl.float32)
        x = x * activate(other, KIND)
    elif OP == "weigh":
        x = x * activate(tl.load(y + row * y_row).to(tl.float32), KIND)
    elif OP == "vector":
        x = x * tl.load(y + cols, mask=ok, other=0.0)
    elif OP == "add":
        x = x + tl.load(y + row * y_row + cols, mask=ok, other=0.0).to(tl.float32)
    elif OP == "scale":
        x = x * number
    elif OP == "clip":
        x = tl.minimum(tl.maximum(x, -number), number)
    elif OP == "softcap":
        x = number * activate(x / number, "tanh")
    elif OP == "act":
        x = activate(x, KIND)
    return x


@triton.jit
def _each(
    x, x_row, a, a_row, b, b_row, c, c_row, d, d_row, out, width, n0, n1, n2, n3,
    OP0: tl.constexpr, OP1: tl.constexpr, OP2: tl.constexpr, OP3: tl.constexpr,
    KIND0: tl.constexpr, KIND1: tl.constexpr, KIND2: tl.constexpr, KIND3: tl.constexpr,
    BLOCK: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One program BLOCK columns of a row."""
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    row = tl.program_id(0).to(tl.int64)
    cols = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    ok = cols < width
    v = tl.load(x + row * x_row + cols, mask=ok, other=0.0).to(tl.float32)
    v = stepped(v, a, a_row, row, cols, ok, n0, OP0, KIND0)
    v = stepped(v, b, b_row, row, cols, ok, n1, OP1, KIND1)
    v = stepped(v, c, c_row, row, cols, ok, n2, OP2, KIND2)
    v = stepped(v, d, d_row, row, cols, ok, n3, OP3, KIND3)
    tl.store(out + row * width + cols, v.to(out.dtype.element_ty), mask=ok)


def each(
    x: Tensor,
    operands: Sequence[Tensor],
    steps: Sequence[Step],
    *,
    form: torch.dtype,
    pdl: bool = False,
) -> Tensor:
    """x [N, width] after these steps, at most `MOST_STEPS`, in `form`: [N, width]

    operands: of the steps that take one, in their order: [N, width], [N, 1] or float32 [width].
    Numbers are rounded once, at the end.
    """
    n, width = x.shape
    assert len(steps) <= MOST_STEPS
    out = torch.empty((n, width), dtype=form, device=x.device)
    rest = iter(operands)
    x = by_columns(x)
    how: dict[str, Any] = {}
    given: list[Any] = [x, x.stride(0)]
    for number in range(MOST_STEPS):
        step = steps[number] if number < len(steps) else Step("none")
        how |= {f"OP{number}": step.op, f"KIND{number}": step.kind}
        how[f"n{number}"] = step.number
        y = by_columns(next(rest)) if step.takes else None
        given += [y, 0 if y is None or y.dim() == 1 else y.stride(0)]
    if n:
        block = min(_BLOCK, power_of_two(width))
        _each[(n, triton.cdiv(width, block))](
            *given, out, width, **how, BLOCK=block, num_warps=4 if block >= 512 else 1,
            **dependent(pdl),
        )  # fmt: skip
    return out


def by_columns(x: Tensor) -> Tensor:
    """x with columns side by side."""
    return x if x.stride(-1) == 1 else x.contiguous()
