"""`Sampling`: what a backend does to a step's logits. `engine/sampler.py` says to which and when.

Rows are independent: what a row gets depends, bit for bit, on its own logits and parameters alone.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rbee_worker.types import TokenLogprob

if TYPE_CHECKING:
    from torch import Tensor

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BIAS, BANNED, WINDOW, OUTPUT = range(4)  # columns of an entry
REPETITION, PRESENCE, FREQUENCY = range(3)  # columns of a slot's factors
FIRST_CAPACITY = 256  # entries a slot, once one has any


class Cut(NamedTuple):
    """Parameters of one row's draw; `Cuts` says what they are."""

    scale: float
    top_k: int
    top_p: float
    min_p: float
    u: float


class Cuts(NamedTuple):
    """Parameters of R rows, each [R]."""

    scale: Floats  # 1 / temperature
    top_k: Ints  # 0 = off
    top_p: Floats  # 1 = off
    min_p: Floats  # 0 = off
    u: Floats  # the uniform number of the draw

    def at(self, rows: Ints) -> Cuts:
        """The parameters of some rows."""
        return Cuts(*(column[rows] for column in self))  # type: ignore[arg-type]

    @classmethod
    def of(cls, rows: Sequence[Cut]) -> Cuts:
        """Rows as columns."""
        scale, top_k, top_p, min_p, u = zip(*rows, strict=True)
        return cls(
            np.array(scale, np.float64),
            np.array(top_k, np.int64),
            np.array(top_p, np.float64),
            np.array(min_p, np.float64),
            np.array(u, np.float64),
        )


class Bends(NamedTuple):
    """Whose logits change: rows[i] has the first used[i] entries of slots[i]."""

    rows: list[int]
    slots: list[int]
    used: list[int]
    early: list[bool]  # banned ids cannot come yet
    bias: bool  # does any of them have a bias,
    repetition: bool  # a repetition penalty,
    output: bool  # a presence or frequency penalty?


class Entries(Protocol):
    """The tokens that bias and penalties touch, by slot, where the logits are.

    An entry is an id and four float32: its bias, whether it is banned (1), how often it stands in
    the window, how often it was generated. What is done with them, `engine/penalties.py` says.
    """

    def clear(self) -> None:
        """Forget all slots and give their memory back."""
        ...

    def write(
        self,
        slot: int,
        ids: Sequence[int],
        values: Sequence[Sequence[float]],
        factors: tuple[float, float, float],
    ) -> None:
        """A slot's entries [n], [n, 4], in place of what it had; factors: of its penalties."""
        ...

    def add(self, new: Sequence[tuple[int, int, int]]) -> None:
        """More entries without counts: (slot, place, id)."""
        ...

    def count(self, changes: Sequence[tuple[int, int, int, int]]) -> None:
        """Add to single numbers: (slot, place, column, difference)."""
        ...

    def values(self, slot: int, n: int) -> list[list[float]]:
        """The first n entries of a slot, [n, 4]."""
        ...

    def apply(self, logits: Tensor, bends: Bends) -> Callable[[Tensor], None]:
        """Change `logits` [S, V] in place; what puts them back, bit for bit, before the next."""
        ...


class Sampling(Protocol):
    """From logits [S, V] float32 to ids and log-probabilities; logits are not changed."""

    def greedy(self, logits: Tensor) -> list[int]:
        """The lowest of each row's likeliest ids; -1 for nan in the row or nothing above -inf."""
        ...

    def choose(self, logits: Tensor, cuts: Sequence[Cut | None]) -> list[int]:
        """One id a row: as above without a cut, else drawn as reference/sampling/filters does."""
        ...

    def score(
        self,
        logits: Tensor,
        ids: Sequence[int],
        tops: Sequence[int],
        rows: Sequence[int] | None = None,
    ) -> list[TokenLogprob]:
        """Log-probability of ids[i] and of the tops[i] likeliest tokens of row rows[i] (None: of
        all rows), the likeliest first, ties: the lower id first. float64; -inf scores -inf, a row
        with nan scores nan."""
        ...

    def entries(self, max_seqs: int) -> Entries:
        """Room for the entries of slots 0 .. max_seqs - 1."""
        ...
