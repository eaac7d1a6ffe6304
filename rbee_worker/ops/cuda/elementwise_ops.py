"""Operations of the cuda backend on a row's numbers: elementwise ones, several in one launch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from rbee_worker.ops import Activation
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.kernels.each import Step, each
from rbee_worker.ops.cuda.kernels.norm import norm
from rbee_worker.ops.cuda.kernels.rowwise import MOST_PARTS, by_position, joined
from rbee_worker.ops.reference.ops import ReferenceOps


class ElementwiseOps(ReferenceOps):
    """The part of `DeviceOps` for what is neither a product nor a norm."""

    pdl: bool

    def each(
        self, x: Tensor, *operands: Tensor, steps: Sequence[Step], form: str = "compute"
    ) -> Tensor:
        """x after these steps; see `kernels.each`. form: of the result, as `graph.Form`."""
        kind = torch.float32 if form == "f32" else self._dtype
        return each(x, operands, steps, form=kind, pdl=self.pdl)

    def norm_and(
        self,
        x: Tensor,
        other: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        *,
        layer: bool,
        heads: int,
        step: Step,
        form: str,
    ) -> Tensor:
        """`rms_norm` or `layer_norm`, then a step with `other`."""
        kind = torch.float32 if form == "f32" else self._dtype
        return norm(
            x, weight, eps, bias=bias, layer=layer, heads=heads, form=kind, then=(step, other),
            pdl=self.pdl,
        )[0]  # fmt: skip

    def add(self, x: Tensor, y: Tensor, *, wide: bool = False) -> Tensor:
        form = torch.float32 if wide else torch.promote_types(x.dtype, y.dtype)
        return each(x, [y], [Step("add")], form=form, pdl=self.pdl)

    def multiply(self, x: Tensor, y: Tensor) -> Tensor:
        assert y.shape[1] in (1, x.shape[1])
        step = Step("multiply" if y.shape[1] == x.shape[1] else "weigh")
        return each(x, [y], [step], form=x.dtype, pdl=self.pdl)

    def scale(self, x: Tensor, factor: float | Tensor) -> Tensor:
        if isinstance(factor, Tensor):
            return each(x, [factor], [Step("vector")], form=x.dtype, pdl=self.pdl)
        return each(x, [], [Step("scale", number=factor)], form=x.dtype, pdl=self.pdl)

    def clip(self, x: Tensor, limit: float) -> Tensor:
        return each(x, [], [Step("clip", number=limit)], form=x.dtype, pdl=self.pdl)

    def softcap(self, x: Tensor, cap: float) -> Tensor:
        return each(x, [], [Step("softcap", number=cap)], form=x.dtype, pdl=self.pdl)

    def concat(self, parts: Sequence[Tensor], *, heads: int = 1) -> Tensor:
        if len(parts) > MOST_PARTS:
            return super().concat(parts, heads=heads)
        return joined(parts, heads=heads, pdl=self.pdl)

    def scale_by_position(
        self, x: Tensor, factors: Tensor, batch: Batch, *, every: int = 1, offset: int = 0
    ) -> Tensor:
        return by_position(x, batch.positions, factors, every=every, offset=offset, pdl=self.pdl)

    def act(self, x: Tensor, kind: Activation) -> Tensor:
        return each(x, [], [Step("act", kind)], form=x.dtype, pdl=self.pdl)
