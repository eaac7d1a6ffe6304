"""A linear map, or several of the same input stacked into one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rbee_worker.ops import Ops, Weight
from rbee_worker.ops.adapted import Site
from rbee_worker.ops.batch import Array, Batch


@dataclass(frozen=True)
class Linear:
    """y = x W^T + b. widths: the output width of each stacked map; precise: applies to every
    product (see `Ops.linear`); factors: float32 [sum(widths)], multiply the output's columns. site:
    where low-rank adapters add to it, None if they cannot; the batch says which one a row uses.
    """

    ops: Ops
    weight: Weight
    bias: Array | None
    widths: Sequence[int]
    precise: bool = False
    factors: Array | None = None
    site: Site | None = None

    def __call__(self, x: Array, batch: Batch, *, precise: bool = False) -> Array:
        """x [N, in], one row for each row of `batch` -> [N, sum(widths)]; precise: see
        `Ops.linear`"""
        y = self.ops.linear(x, self.weight, self.bias, precise=precise or self.precise)
        if self.site is not None:
            y = self.ops.adapted(y, x, self.site, batch)
        return y if self.factors is None else self.ops.scale(y, self.factors)

    def logits(self, x: Array, batch: Batch) -> Array:
        """x [N, in] -> float32 [N, sum(widths)]: scores that decide something, as a router's."""
        assert self.factors is None
        y = self.ops.logits(x, self.weight, self.bias)
        return y if self.site is None else self.ops.adapted(y, x, self.site, batch)

    def withdraw(self) -> None:
        """No adapter may change this map: it is used for rows without their batch, which says which
        adapter a row uses. Safe to repeat."""
        if self.site is not None and self.ops.sites is not None:
            self.ops.sites.withdraw(self.site)

    def split(self, x: Array, batch: Batch, *, precise: bool = False) -> tuple[Array, ...]:
        """x [N, in] -> one [N, width] per stacked map"""
        return self.ops.split(self(x, batch, precise=precise), self.widths)
