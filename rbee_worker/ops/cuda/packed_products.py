"""Products with packed planes for a few rows, and activations quantized by the product before."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from rbee_worker.ops.cuda.kernels.packed.product import Next, packed_product
from rbee_worker.ops.cuda.kernels.packed.quantize import (
    BLOCK,
    Quantized,
    empty_quantized,
    quantize_rows,
)
from rbee_worker.ops.cuda.kernels.skinny import Weighted
from rbee_worker.ops.cuda.matrix import DeviceMatrix, part_offsets

MOST = 4  # rows; for more, integers of 8 bits on tensor cores are faster, and so are floats

Norm = tuple[Tensor | None, float]


class Ahead(NamedTuple):
    """What the next product needs of this one's result: the norm between them, or None."""

    norm: Norm | None


class _Ready(NamedTuple):
    """A result that is there in the form that a product after that norm takes too."""

    ahead: Ahead
    form: Quantized | Weighted


def product(
    x: Tensor,
    matrix: DeviceMatrix,
    *,
    form: torch.dtype,
    norm: Norm | None = None,
    bias: Tensor | None = None,
    gated: str | None = None,
    residual: Tensor | None = None,
    ahead: Ahead | None = None,
    pdl: bool,
) -> Tensor | None:
    """As `kernels.gemv.gemv`, for up to `MOST` rows; None if the planes do not allow it: then the
    caller multiplies floats. ahead: quantize the result for the next product as well."""
    q = _quantized(x, norm, pdl)
    n, columns = x.shape[0], matrix.rows // 2 if gated else matrix.rows
    pair = matrix.halves() if gated else None
    if gated and pair is None:
        return None
    out = torch.empty((n, columns), dtype=form, device=x.device)
    parts = [pair[0]] if pair is not None else list(matrix.parts)
    starts = part_offsets(parts)
    following = None
    if ahead is not None and all(start % BLOCK == 0 for start in starts):
        eps = None if ahead.norm is None else ahead.norm[1]
        following = empty_quantized(n, columns, x.device, norm_eps=eps)
    weight = ahead.norm[0] if ahead is not None and ahead.norm is not None else None
    for part, start in zip(parts, starts, strict=True):
        here = slice(start, start + part.rows)
        more: dict[str, Any] = {}
        if pair is not None:
            more = {"up": pair[1], "gated": gated}
            if bias is not None:
                more["up_bias"] = bias[columns:]
        packed_product(
            q,
            part,
            out[:, here],
            bias=None if bias is None else bias[here],
            residual=None if residual is None else residual[:, here],
            after=None if following is None else Next(following, weight, start),
            pdl=pdl,
            **more,
        )
    keep_ready(out, ahead, following)
    return out


def keep_ready(x: Tensor, ahead: Ahead | None, form: Quantized | Weighted | None) -> None:
    """Remember the form of x that the product after the norm `ahead` takes, if there is one."""
    if ahead is not None and form is not None:
        x.ready = _Ready(ahead, form)  # type: ignore[attr-defined]


def ready_for(x: Tensor, norm: Norm | None) -> Weighted | None:
    """What the product that made x kept for a product of floats after that norm."""
    ready: _Ready | None = getattr(x, "ready", None)
    if ready is None or not isinstance(ready.form, Weighted):
        return None
    return ready.form if _same(ready.ahead.norm, norm) else None


def _quantized(x: Tensor, norm: Norm | None, pdl: bool) -> Quantized:
    """x in 8 bits: by the product that made it, or now."""
    ready: _Ready | None = getattr(x, "ready", None)
    if ready is not None and isinstance(ready.form, Quantized) and _same(ready.ahead.norm, norm):
        return ready.form
    return quantize_rows(x if x.stride(1) == 1 else x.contiguous(), norm, pdl=pdl)


def _same(one: Norm | None, other: Norm | None) -> bool:
    if one is None or other is None:
        return one is other
    return one[0] is other[0] and one[1] == other[1]
