"""Several matrices of one shape as the kernels read them: each is held by itself, and found by its
address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops import Weight
from rbee_worker.ops.cpu.runtime.matrix import Matrix, outline
from rbee_worker.ops.cpu.shared.held import Held
from rbee_worker.ops.cpu.shared.regions import Words


@dataclass(frozen=True)
class StackPart:
    """Rows first .. first + rows - 1 of every member, in `held` format; `at`: int64 [members],
    where they lie."""

    held: Held
    first: int
    rows: int
    at: Words


@dataclass(frozen=True)
class Stack:
    """What `Weight.data` is for a stack on this backend."""

    parts: tuple[StackPart, ...]
    members: tuple[Matrix, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of all members."""
        return sum(m.nbytes for m in self.members)


def hold_stack(
    hold: Callable[[Sequence[Packed]], Matrix], members: Sequence[Sequence[Packed]]
) -> Stack:
    """Repack every member for the kernels with `hold`; all must be alike."""
    return _stack(tuple(hold(parts) for parts in members))


def outline_stack(members: Sequence[Sequence[Packed]]) -> Stack:
    """What `hold_stack` makes of members that are all like the first, without their data."""
    return _stack((outline(members[0]),) * len(members))


def weight_of(stack: Stack) -> Weight:
    """A stack as models have it."""
    first = stack.members[0]
    formats = "+".join(dict.fromkeys(first.source_formats))
    return Weight(
        stack, first.rows, first.cols, formats, first.formats, stack.nbytes, len(stack.members)
    )


def _stack(held: tuple[Matrix, ...]) -> Stack:
    first = held[0]
    for other in held[1:]:
        assert [(p.held, p.rows) for p in other.parts] == [(p.held, p.rows) for p in first.parts]
        assert other.cols == first.cols
    parts = [
        StackPart(
            part.held,
            part.first,
            part.rows,
            np.array([m.parts[n].data.ctypes.data for m in held], np.int64),
        )
        for n, part in enumerate(first.parts)
    ]
    return Stack(tuple(parts), held)
