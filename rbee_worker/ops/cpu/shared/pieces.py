"""How a product's last groups of rows are shared: in pieces, for whichever thread is free.

Threads rarely run at the same speed: other programs use the other half of a core, or the memory's
bandwidth. So only a part of a product's groups is assigned beforehand; the rest is cut into pieces,
and a thread that is done takes the next one (`shares.claim`). Every thread computes a row the same
way, so results do not depend on who took it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from rbee_worker.ops.cpu.shared.regions import LINE, Words, zeros


class Pieces(NamedTuple):
    """One in `part` groups is left for pieces of `size` groups each."""

    size: int
    part: int

    def number(self, groups: int, threads: int) -> int:
        """How many pieces a product has; 0 if there would be fewer pieces than threads."""
        pieces = groups // (self.part * self.size)
        return pieces if pieces >= threads > 1 else 0


TILED = 16  # from so many tokens on, arithmetic limits a product, not reading weights
FEW = Pieces(4, 4)  # with fewer tokens: most weights are then read in long runs
MANY = Pieces(16, 2)


def ticket() -> Words:
    """A counter of claims, zero, on a cache line of its own."""
    return zeros(LINE).view(np.int64)
