"""Products with the model's matrices: which kernel computes one, by its rows and the matrix's form.

One row: `kernels.gemv`; up to 64: `kernels.skinny`, in 8 bits where the matrix is; packed planes,
up to four rows: `packed_products`; many: cuBLAS.
8-bit floats with scales for blocks: `kernels.fixed`, for any number of rows.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rbee_worker.ops import Activation, Weight
from rbee_worker.ops.cuda import packed_products
from rbee_worker.ops.cuda.f8_products import can_multiply_f8, multiply_f8
from rbee_worker.ops.cuda.kept_shapes import FEW as FEW_ROWS
from rbee_worker.ops.cuda.kept_shapes import KeptShapes
from rbee_worker.ops.cuda.kernels.block_bytes import to_bytes
from rbee_worker.ops.cuda.kernels.by_head import MOST_COLUMNS, MOST_ROWS, by_head
from rbee_worker.ops.cuda.kernels.f8 import quantize_f8
from rbee_worker.ops.cuda.kernels.fixed import fixed_product
from rbee_worker.ops.cuda.kernels.gemv import gemv
from rbee_worker.ops.cuda.kernels.norm import norm
from rbee_worker.ops.cuda.kernels.rowwise import gated
from rbee_worker.ops.cuda.kernels.skinny import FEW, skinny, skinny_ahead
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from rbee_worker.ops.cuda.matrix import DeviceMatrix
from rbee_worker.ops.cuda.packed_products import keep_ready, ready_for
from rbee_worker.ops.reference.ops import ReferenceOps


class ProductOps(ReferenceOps):
    """The part of `DeviceOps` that multiplies."""

    pdl: bool
    workspace: Workspace
    shapes: KeptShapes | None = None  # what `warmup` has measured

    def linear(
        self, x: Tensor, weight: Weight, bias: Tensor | None = None, *, precise: bool = False
    ) -> Tensor:
        return self.product(x, weight, bias)

    def logits(self, x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
        return self.product(x, weight, bias, form="f32")

    def heads_linear(self, x: Tensor, weight: Weight) -> Tensor:
        if x.shape[0] <= MOST_ROWS and weight.cols <= MOST_COLUMNS:
            return by_head(x.to(self._dtype), weight.data.floats(self._dtype), pdl=self.pdl)
        parts = x.to(self._dtype).view(-1, weight.count, weight.cols).transpose(0, 1)
        y = torch.bmm(parts, weight.data.floats(self._dtype).transpose(1, 2))  # [count, N, rows]
        return y.transpose(0, 1).flatten(1)

    def gated(self, gate_up: Tensor, kind: Activation) -> Tensor:
        return gated(gate_up, kind, pdl=self.pdl)

    def product(
        self,
        x: Tensor,
        weight: Weight,
        bias: Tensor | None = None,
        *,
        form: str = "compute",
        norm: tuple[Tensor | None, float] | None = None,
        gated: Activation | None = None,
        act: Activation | None = None,
        residual: Tensor | None = None,
        ahead: packed_products.Ahead | None = None,
        owned: bool = False,
    ) -> Tensor:
        """`linear` with what precedes and follows it; see `kernels.gemv.gemv`.

        form: of the result, as `graph.Form`. ahead: see `packed_products.Ahead`. owned: nobody else
        needs the residual, so the result may take its place.
        """
        matrix: DeviceMatrix = weight.data
        if matrix.has_blocks:
            return self._in_order(
                self._normed(x, norm), matrix, bias, form=form, gated=gated, act=act,
                residual=residual,
            )  # fmt: skip
        result = torch.float32 if form == "f32" else self._dtype
        n = x.shape[0]
        if matrix.parts and n <= packed_products.MOST:
            y = packed_products.product(
                x,
                matrix,
                form=result,
                norm=norm,
                bias=bias,
                gated=gated,
                residual=residual if act is None else None,
                ahead=ahead if act is None else None,
                pdl=self.pdl,
            )
            if y is not None:
                return y if act is None else _plus(self.act(y, act), residual)
        after: dict[str, Any] = {"gated": gated, "act": act or "none", "residual": residual}
        if n == 1:
            x = x if norm is not None else x.to(self._dtype)
            dense, scales = self._operand(matrix)
            return gemv(
                x.contiguous(), dense, scales=scales, norm=norm, bias=bias, form=result,
                pdl=self.pdl, shape=self._kept_shape(n, dense, gated), **after,
            )  # fmt: skip
        if n <= FEW and (matrix.integers is not None or can_multiply_f8(x, matrix)):
            return self._few_in_8_bits(x.contiguous(), matrix, norm, bias, result, after)
        if can_multiply_f8(x, matrix):
            y = multiply_f8(x.contiguous(), matrix, norm=norm, pdl=self.pdl)
            return self._ended(y, bias, result, **after)
        if n <= FEW and self._dtype != torch.float32:
            dense, scales = self._operand(matrix)
            y, following = skinny_ahead(
                ready_for(x, norm) or self._normed(x, norm), dense, self.workspace, scales=scales,
                bias=bias, form=result, pdl=self.pdl, ahead=self._norm_ahead(ahead, result),
                shape=self._kept_shape(n, dense, gated), **after,
            )  # fmt: skip
            keep_ready(y, ahead, following)
            return y
        return self._many(self._normed(x, norm), matrix, bias, result, owned=owned, **after)

    def _kept_shape(self, rows: int, dense: Tensor, gated: Activation | None) -> Any:
        """The tile shape that `warmup` found for a product of so many rows; None: the tables'."""
        if self.shapes is None:
            return None
        few = next(few for few in FEW_ROWS if rows <= few)
        rows, cols = dense.shape
        return self.shapes.of(few, rows, cols, gated is not None, dense.dtype)

    def _norm_ahead(
        self, ahead: packed_products.Ahead | None, form: torch.dtype
    ) -> tuple[Tensor, float] | None:
        """The norm between this product and the next one, if this one may weight its result:
        before its factor a row may be beyond what float16 holds."""
        if ahead is None or ahead.norm is None or form != torch.bfloat16:
            return None
        weight, eps = ahead.norm
        return None if weight is None else (weight, eps)

    def _few_in_8_bits(
        self,
        x: Tensor,
        matrix: DeviceMatrix,
        norm: tuple[Tensor | None, float] | None,
        bias: Tensor | None,
        form: torch.dtype,
        after: dict[str, Any],
    ) -> Tensor:
        """A product of up to 64 rows with 8-bit integers, or with 8-bit floats."""
        if matrix.integers is not None:
            weight, scales = matrix.integers
            values, x_scales = to_bytes(x, norm, pdl=self.pdl)
        else:
            assert matrix.dense is not None
            assert matrix.scales is not None
            weight, scales = matrix.dense, matrix.scales
            values, x_scales = quantize_f8(x, norm, pdl=self.pdl)
        return skinny(
            values, weight, self.workspace, x_scales=x_scales, scales=scales, bias=bias,
            form=form, pdl=self.pdl, **after,
        )  # fmt: skip

    def _in_order(
        self,
        x: Tensor,
        matrix: DeviceMatrix,
        bias: Tensor | None,
        *,
        form: str,
        gated: Activation | None,
        act: Activation | None,
        residual: Tensor | None,
    ) -> Tensor:
        """A product by `kernels.fixed`, which takes any number of rows; x: after the norm."""
        dense, scales = self._operand(matrix)
        result = torch.float32 if form == "f32" else self._dtype
        ends: dict[str, Any] = {"act": act or "none", "residual": residual, "form": result}
        if gated is not None:  # what follows the product follows the gate
            ends = {}
        y = fixed_product(x, dense, self.workspace, scales=scales, bias=bias, pdl=self.pdl, **ends)
        if gated is None:
            return y
        return _plus(self.gated(y, gated), residual).to(result)

    def _normed(self, x: Tensor, before: tuple[Tensor | None, float] | None) -> Tensor:
        if before is not None:
            return norm(x, *before, form=self._dtype, pdl=self.pdl)[0]
        return x.to(self._dtype).contiguous()

    def _operand(self, matrix: DeviceMatrix) -> tuple[Tensor, Tensor | None]:
        """The matrix as kernels take it, and its rows' scales."""
        if matrix.scales is not None and matrix.dense is not None:
            return matrix.dense, matrix.scales
        return matrix.floats(self._dtype), None

    def _many(
        self,
        x: Tensor,
        matrix: DeviceMatrix,
        bias: Tensor | None,
        form: torch.dtype,
        *,
        residual: Tensor | None,
        gated: Activation | None,
        act: str,
        owned: bool,
    ) -> Tensor:
        """A product of many rows, by cuBLAS."""
        plain = bias is None and gated is None and act == "none"
        if plain and residual is not None and residual.dtype == x.dtype == form:
            add = residual.addmm_ if owned else partial(torch.addmm, residual)
            return add(x, matrix.floats(self._dtype).t())
        if plain and residual is None and form == torch.float32 != x.dtype and x.is_cuda:
            return torch.mm(x, matrix.floats(self._dtype).t(), out_dtype=form)
        y = F.linear(x, matrix.floats(self._dtype))
        return self._ended(y, bias, form, residual=residual, gated=gated, act=act)

    def _ended(
        self,
        y: Tensor,
        bias: Tensor | None,
        form: torch.dtype,
        *,
        residual: Tensor | None,
        gated: Activation | None,
        act: str,
    ) -> Tensor:
        """What follows a product, where its kernel has not done it."""
        if bias is not None:
            y = (y.float() + bias).to(y.dtype)
        if gated is not None:
            y = self.gated(y, gated)
        elif act != "none":
            y = self.act(y, act)  # type: ignore[arg-type]
        return _plus(y, residual).to(form)


def _plus(x: Tensor, residual: Tensor | None) -> Tensor:
    return x if residual is None else x + residual
