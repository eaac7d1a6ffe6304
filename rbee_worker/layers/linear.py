"""A linear map, or several of the same input stacked into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rbee_worker.ops import Ops, Weight

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b. `widths` are the outputs' widths where several maps are stacked; `precise`:
    of every product (see `Ops.linear`)."""

    ops: Ops
    weight: Weight
    bias: Tensor | None
    widths: Sequence[int]
    precise: bool = False

    def __call__(self, x: Tensor, *, precise: bool = False) -> Tensor:
        """x [N, in] -> [N, sum(widths)]; precise: see `Ops.linear`"""
        return self.ops.linear(x, self.weight, self.bias, precise=precise or self.precise)

    def split(self, x: Tensor, *, precise: bool = False) -> tuple[Tensor, ...]:
        """x [N, in] -> one [N, width] for each stacked map"""
        return self.ops.split(self(x, precise=precise), self.widths)
