"""Work that threads share while they do it: a product's last groups of rows.

Threads seldom run alike: somebody else uses the other half of a core, or the memory behind it. So
only a part of a product's groups is shared beforehand; the rest lies in pieces, and whoever is done
takes the next one (`shares.claim`). A row is computed alike by anybody, so no result depends on it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rbee_worker.ops.cpu.shared.regions import LINE, Words, zeros


class Pieces(NamedTuple):
    """One in `part` groups lies in pieces, `size` groups each."""

    size: int
    part: int

    def number(self, groups: int, threads: int) -> int:
        """How many pieces a product has; 0 where they would be fewer than the threads."""
        pieces = groups // (self.part * self.size)
        return pieces if pieces >= threads > 1 else 0


TILED = 16  # tokens from which on a product's time is arithmetic, not reading
FEW = Pieces(4, 4)  # with fewer: most of the weights are read a long way on end
MANY = Pieces(16, 2)


def ticket() -> Words:
    """A counter of claims, zero, on a cache line of its own."""
    return zeros(LINE).view(np.int64)
