"""What the team replays: a kernel, its arguments, and what its threads will read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

BYTES = 64  # of an entry: eight int64, in the order of the fields


class Instruction(NamedTuple):
    """kernel, args: addresses. barrier: 1 if every thread must have arrived before it is run.

    weights: address of `groups` times `group_bytes`, of which thread t of n reads the groups from
    t * groups // n on; 0 if there is nothing to prefetch. args_stride: bytes between consecutive
    threads' argument structs (0 = shared). replicated: 1 if every thread runs the whole entry
    itself.
    """

    kernel: int
    args: int
    barrier: int = 0
    weights: int = 0
    groups: int = 0
    group_bytes: int = 0
    args_stride: int = 0
    replicated: int = 0


def words(entries: Sequence[Instruction]) -> npt.NDArray[np.int64]:
    """int64 [entries, 8], as `kernels/team.py` reads them."""
    return np.array(entries, np.int64).reshape(len(entries), BYTES // 8)
