"""Connectors between a tower's rows and the text model's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from rbee_worker.layers.linear import Linear
from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Array, Batch


@dataclass(frozen=True)
class MeanOfPatches:
    """out(norm(mean of `count` patches)), whose `width` columns each lie side by side."""

    ops: Ops
    count: int
    width: int
    norm: Callable[[Array], Array]
    out: Linear

    def __call__(self, x: Array, batch: Batch) -> Array:
        """x [N, count * width] -> [N, out]"""
        parts = list(self.ops.split(x, (self.width,) * self.count))
        while len(parts) > 1:  # sums of pairs, whose rounding errors grow slowest
            pairs = zip(parts[::2], parts[1::2], strict=False)
            parts = [self.ops.add(a, b) for a, b in pairs] + parts[len(parts) // 2 * 2 :]
        return self.out(self.norm(self.ops.scale(parts[0], 1 / self.count)), batch)
