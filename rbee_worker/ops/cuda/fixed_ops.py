"""`FixedOps`: operations whose sums have one order, so that a row's result does not depend on what
else is in its step (`--deterministic`).

A sequence gives the same logits, bit for bit, alone, in any batch, and whether its tokens come in a
prompt, in parts of one, or one by one. Norms, rotary positions and elementwise operations are so
anyway: a program has one row. Recurrences compute rows in order (`RecurrenceOps`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rbee_worker.ops import Activation, Weight
from rbee_worker.ops.cuda import packed_products
from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.cuda.kernels import attention as kernel
from rbee_worker.ops.cuda.kernels.fixed import fixed_product


class FixedOps(DeviceOps):
    """See `DeviceOps`."""

    fixed = True

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
        """See `ProductOps.product`. Matrices have no planes here: nothing is quantized ahead."""
        assert not weight.data.parts
        return self._in_order(
            self._normed(x, norm), weight.data, bias, form=form, gated=gated, act=act,
            residual=residual,
        )  # fmt: skip

    def heads_linear(self, x: Tensor, weight: Weight) -> Tensor:
        parts = torch.split(x.to(self._dtype), weight.cols, dim=1)
        found = [
            fixed_product(part.contiguous(), one, self.workspace, pdl=self.pdl)
            for part, one in zip(parts, weight.data.floats(self._dtype), strict=True)
        ]
        return torch.cat(found, dim=1)

    def _tiles(self, dims: int, element: int) -> dict[str, Any]:
        tiles = kernel.fixed_tiles(dims=dims, element=element)
        return {"single": tiles, "several": tiles}
