"""A linear map, or several of the same input stacked into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee_worker.ops import Ops, Weight
from rbee_worker.ops.batch import Array, Batch


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b. widths: the output width of each stacked map; precise: applies to every
    product (see `Ops.linear`); factors: float32 [sum(widths)], multiply the output's columns.

    Every call gets the batch that its rows belong to: a low-rank adapter would add its own product
    here, and the batch would say which adapter a row uses.
    """

    ops: Ops
    weight: Weight
    bias: Array | None
    widths: Sequence[int]
    precise: bool = False
    factors: Array | None = None

    def __call__(self, x: Array, batch: Batch, *, precise: bool = False) -> Array:
        """x [N, in], one row for each row of `batch` -> [N, sum(widths)]; precise: see
        `Ops.linear`"""
        y = self.ops.linear(x, self.weight, self.bias, precise=precise or self.precise)
        return y if self.factors is None else self.ops.scale(y, self.factors)

    def split(self, x: Array, batch: Batch, *, precise: bool = False) -> tuple[Array, ...]:
        """x [N, in] -> one [N, width] per stacked map"""
        return self.ops.split(self(x, batch, precise=precise), self.widths)
