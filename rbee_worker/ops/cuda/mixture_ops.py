"""Mixtures of experts of the cuda backend: the router, and the products of chosen experts."""

from __future__ import annotations

from torch import Tensor

from rbee_worker.ops import Activation, Routing, Weight
from rbee_worker.ops.cuda.kernels.experts.experts import experts
from rbee_worker.ops.cuda.kernels.experts.route import route
from rbee_worker.ops.cuda.kernels.experts.routed import MOST_ROWS, routed
from rbee_worker.ops.cuda.product_ops import ProductOps


class MixtureOps(ProductOps):
    """The part of `DeviceOps` for mixtures of experts."""

    fixed = False  # whether all sums have one order, whatever else is in a step

    def route(
        self,
        logits: Tensor,
        routing: Routing,
        *,
        bias: Tensor | None = None,
        scales: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        return route(logits, routing, bias, scales, fixed=self.fixed, pdl=self.pdl)

    def routed(
        self,
        x: Tensor,
        weight: Weight,
        logits_bias: Tensor | None,
        routing: Routing,
        *,
        norm: tuple[Tensor | None, float] | None,
        bias: Tensor | None,
        scales: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`rms_norm` (without `norm`, x itself), `logits` and `route`: what the first and the last
        return."""
        if self.fixed or x.shape[0] > MOST_ROWS:
            given = self._normed(x, norm)
            logits = self.product(given, weight, logits_bias, form="f32")
            return given, *self.route(logits, routing, bias=bias, scales=scales)
        dense, row_scales = self._operand(weight.data)
        return routed(
            x if norm is not None else x.to(self._dtype), dense, routing, norm=norm,
            row_scales=row_scales, logits_bias=logits_bias, bias=bias, scales=scales,
            form=self._dtype, pdl=self.pdl,
        )  # fmt: skip

    def experts(
        self,
        x: Tensor,
        ids: Tensor,
        weights: Tensor | None,
        up: Weight,
        down: Weight,
        kind: Activation,
        *,
        up_bias: Tensor | None = None,
        down_bias: Tensor | None = None,
        limit: float | None = None,
        residual: Tensor | None = None,
    ) -> Tensor:
        """See `Ops.experts`; residual: added to the result."""
        return experts(
            x.to(self._dtype).contiguous(),
            ids,
            weights,
            up.data.dense,
            down.data.dense,
            kind,
            up_bias=up_bias,
            down_bias=down_bias,
            limit=limit,
            residual=None if residual is None else residual.contiguous(),
            up_scales=up.data.scales,
            down_scales=down.data.scales,
            fixed=self.fixed,
            pdl=self.pdl,
        )
