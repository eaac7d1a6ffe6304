"""`Ops.experts` on stacks of float matrices: products for few rows, or for many."""

from __future__ import annotations

import torch
from torch import Tensor

from rbee_worker.ops import Activation
from rbee_worker.ops.cuda.kernels.experts.few import few
from rbee_worker.ops.cuda.kernels.experts.many import many

FEW_ROWS = 16


def reads_by_row(rows: int, top_k: int, count: int) -> bool:
    """Whether so few of `count` experts are used twice that each row reads its own."""
    return rows <= FEW_ROWS and rows * top_k <= max(count // 2, 8)


def experts(
    x: Tensor,
    ids: Tensor,
    weights: Tensor | None,
    up: Tensor,
    down: Tensor,
    kind: Activation,
    *,
    up_bias: Tensor | None = None,
    down_bias: Tensor | None = None,
    limit: float | None = None,
    residual: Tensor | None = None,
    up_scales: Tensor | None = None,
    down_scales: Tensor | None = None,
    fixed: bool = False,
    pdl: bool = False,
) -> Tensor:
    """See `Ops.experts`: x [N, cols], ids int32 and weights float32 [N, top_k] -> [N, dim].

    up [experts, rows, cols] and down [experts, dim, width], of the type of x, or in 8-bit floats
    with scales float32 [experts, rows, cols / 128] of each; biases are float32, expert by expert.
    All sums are float32; h, and in the form for many rows each expert's result, are rounded to the
    type of x. A row's result depends on itself and on the form that its step's number of rows
    selects, not on the other rows. residual [N, dim] is added before the result is rounded. fixed:
    always the form for many rows.
    """
    for stack, scales in ((up, up_scales), (down, down_scales)):
        assert (stack.dtype == x.dtype) == (scales is None)
        assert scales is None or scales.shape == (*stack.shape[:2], stack.shape[2] / 128)
    assert ids.dtype == torch.int32
    assert x.shape[1] == up.shape[2]
    count, dim, width = down.shape
    assert up.shape[:2] in ((count, 2 * width), (count, width))
    assert limit is None or up.shape[1] == 2 * width
    if not x.shape[0]:
        return torch.empty((0, dim), dtype=x.dtype, device=x.device)
    tensors = [x, ids, up, down] + [
        t for t in (weights, up_bias, down_bias, residual, up_scales, down_scales) if t is not None
    ]
    assert all(t.is_contiguous() for t in tensors)
    form = few if not fixed and reads_by_row(x.shape[0], ids.shape[1], count) else many
    return form(
        x, ids, weights, up, down, kind, up_bias, down_bias, limit, residual, up_scales=up_scales,
        down_scales=down_scales, pdl=pdl,
    )  # fmt: skip
