"""A whole matrix of packed parts, times a few rows: what the backend calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rbee_worker.ops.cuda.kernels.packed.planes import ROWS, PackedPart, joined
from rbee_worker.ops.cuda.kernels.packed.product import Next, packed_product
from rbee_worker.ops.cuda.kernels.packed.quantize import (
    Quantized,
    empty_quantized,
    quantize_rows,
)
from rbee_worker.ops.cuda.kernels.rowwise import gated as gated_rows
from rbee_worker.ops.operands import Activation

Pair = tuple[PackedPart, PackedPart]


@dataclass(frozen=True)
class PackedMatrix:
    """The rows of `parts`, one after another.

    pairs: the same as gates and ups, if the second half of the rows has the formats of the first
    and can be taken apart from it; else None.
    """

    parts: tuple[PackedPart, ...]
    pairs: tuple[Pair, ...] | None
    rows: int
    cols: int

    @property
    def nbytes(self) -> int:
        """Bytes in the device's memory."""
        return sum(part.nbytes for part in self.parts)


def packed_matrix(parts: Sequence[PackedPart]) -> PackedMatrix:
    """A matrix of parts in the order of its rows; neighbours of one format are joined (a copy)."""
    whole = tuple(joined(parts))
    rows = sum(part.rows for part in whole)
    return PackedMatrix(whole, _pairs(whole, rows), rows, whole[0].cols)


def _pairs(parts: Sequence[PackedPart], rows: int) -> tuple[Pair, ...] | None:
    """Gates with their ups, of the same rows and format each."""
    half, start = rows // 2, 0
    first: list[PackedPart] = []
    second: list[PackedPart] = []
    for part in parts:
        cut = min(max(half - start, 0), part.rows)
        if rows % 2 or (0 < cut < part.rows and cut % ROWS):
            return None
        if cut:
            first.append(part.row_range(0, cut))
        if cut < part.rows:
            second.append(part.row_range(cut, part.rows))
        start += part.rows
    same = [(p.format, p.rows) for p in first] == [(p.format, p.rows) for p in second]
    return tuple(zip(first, second, strict=True)) if same else None


class Then(NamedTuple):
    """The next product takes the result quantized. norm: (weight [cols] or None, eps) of an RMS
    norm between the two. only: the result in floats is not needed."""

    norm: tuple[Tensor | None, float] | None = None
    only: bool = False


class Made(NamedTuple):
    """What a product made: floats [N, rows] in `form`, and quantized; each where it was wanted."""

    out: Tensor | None
    quantized: Quantized | None


def packed_linear(
    x: Tensor | Quantized,
    matrix: PackedMatrix,
    form: torch.dtype,
    *,
    norm: tuple[Tensor | None, float] | None = None,
    bias: Tensor | None = None,
    gated: Activation | None = None,
    act: str = "none",
    residual: Tensor | None = None,
    then: Then | None = None,
    pdl: bool = False,
) -> Made:
    """x [N, cols] times the transposed matrix [rows, cols].

    norm: (weight or None, eps) of an RMS norm of x, which is quantized after it; a quantized x has
    had its own. bias: float32 [rows]. gated: the matrix has gates, then ups, and the result is
    act(gate) * up [N, rows / 2]. act: applied otherwise. residual [N, rows] is added last.
    """
    if isinstance(x, Tensor):
        x = quantize_rows(x, norm, pdl=pdl)
    if gated is not None and matrix.pairs is None:
        return _gated_apart(x, matrix, form, bias, gated, residual, then, pdl)
    rows = matrix.rows // 2 if gated else matrix.rows
    n, device = x.values.shape[0], x.values.device
    out, to, weight = None, None, None
    if then is None or not then.only:
        out = torch.empty((n, rows), dtype=form, device=device)
    whole_blocks = all(part.rows % ROWS == 0 for part in matrix.parts[:-1])
    if then is not None and whole_blocks:
        to = empty_quantized(n, rows, device, norm_eps=None if then.norm is None else then.norm[1])
        weight = None if then.norm is None else then.norm[0]
    elif then is not None and out is None:
        out = torch.empty((n, rows), dtype=form, device=device)
    pairs: Sequence[tuple[PackedPart, PackedPart | None]] = [(p, None) for p in matrix.parts]
    if gated is not None and matrix.pairs is not None:
        pairs = matrix.pairs
    at = 0
    for part, up in pairs:
        here = slice(at, at + part.rows)
        packed_product(
            x, part, None if out is None else out[:, here], up=up, gated=gated, act=act,
            bias=None if bias is None else bias[here],
            up_bias=None if bias is None or up is None else bias[rows + at : rows + here.stop],
            residual=None if residual is None else residual[:, here],
            after=None if to is None else Next(to, weight, at), pdl=pdl,
        )  # fmt: skip
        at = here.stop
    if then is not None and to is None and out is not None:
        to = quantize_rows(out, then.norm, pdl=pdl)
    return Made(out, to)


def _gated_apart(
    x: Quantized,
    matrix: PackedMatrix,
    form: torch.dtype,
    bias: Tensor | None,
    kind: Activation,
    residual: Tensor | None,
    then: Then | None,
    pdl: bool,
) -> Made:
    """Gates and ups whose formats differ: products first, then the activation."""
    both = packed_linear(x, matrix, form, bias=bias, pdl=pdl).out
    assert both is not None
    if then is not None and then.only and then.norm is None and residual is None:
        return Made(None, quantize_rows(both, gated=kind, pdl=pdl))
    out = gated_rows(both, kind, pdl=pdl)
    if residual is not None:
        out = out + residual
    return Made(out, None if then is None else quantize_rows(out, then.norm, pdl=pdl))
