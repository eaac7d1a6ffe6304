"""What a query sees and how its scores change: the options of `Ops.attend` as kernels take them."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from torch import Tensor

LOG2E = math.log2(math.e)


class Sight(NamedTuple):
    """The options of `Ops.attend`; scale: factor on the products of queries and keys."""

    scale: float
    window: int | None = None
    chunk: int | None = None
    softcap: float | None = None
    slopes: Tensor | None = None  # float32 [heads]
    sinks: Tensor | None = None  # float32 [heads]
    causal: bool = True
    distances: Tensor | None = None  # float32 [heads * (2 * reach + 1)]
    reach: int = 0

    def check(self) -> None:
        """Combinations that `Ops.attend` excludes."""
        assert self.scale > 0
        assert self.window is None or self.chunk is None
        assert self.causal or (self.chunk is None and self.slopes is None)
        assert self.slopes is None or self.distances is None

    def arguments(self) -> dict[str, Any]:
        """Kernel arguments.

        Exponentials are powers of two: a score times `factor` is its exponent. With a cap, slopes
        or distances the kernel scales scores itself, by `scale` or (in the tanh) by `cap_scale`.
        """
        by_place = self.slopes if self.distances is None else self.distances
        plain = self.softcap is None and by_place is None
        cap = self.softcap or 1.0
        return {
            "slopes": by_place,
            "reach": self.reach,
            "sinks": self.sinks,
            "factor": self.scale * LOG2E if plain else LOG2E,
            "scale": self.scale,
            "cap": cap,
            "cap_scale": 2.0 * self.scale / cap,
            "window": self.window or 0,
            "chunk": self.chunk or 0,
            "CAUSAL": self.causal,
            "WINDOW": self.window is not None,
            "CHUNK": self.chunk is not None,
            "CAP": self.softcap is not None,
            "SLOPES": 2 if self.distances is not None else int(self.slopes is not None),
            "SINKS": self.sinks is not None,
        }
