"""`Sampling`: a backend's operations on a step's logits, which `engine/sampler.py` calls.

Rows are independent: a row's result depends, bit for bit, on its own logits and parameters only.
Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rbee_worker.ops.batch import Array
from rbee_worker.types import TokenLogprob

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bits = NDArray[np.uint32]  # by id: bit id % 32 of word id // 32; at least a bit for every token

BIAS, BANNED, WINDOW, OUTPUT = range(4)  # columns of an entry
REPETITION, PRESENCE, FREQUENCY = range(3)  # columns of a slot's factors
FIRST_CAPACITY = 256  # entries per slot, once any slot has one


class DrawParams(NamedTuple):
    """The parameters of one row's draw."""

    scale: float  # 1 / temperature
    top_k: int  # draw among the top_k most likely tokens only; 0: all
    top_p: float  # draw among the fewest most likely tokens whose probabilities reach top_p; 1: all
    min_p: float  # draw among tokens at least min_p times as likely as the most likely; 0: all
    u: float  # the uniform random number in [0, 1) that decides


class DrawColumns(NamedTuple):
    """`DrawParams` of R rows as columns, each [R]."""

    scale: Floats
    top_k: Ints
    top_p: Floats
    min_p: Floats
    u: Floats

    def at(self, rows: Ints) -> DrawColumns:
        """The parameters of some rows."""
        return DrawColumns(*(column[rows] for column in self))  # type: ignore[arg-type]

    @classmethod
    def of(cls, rows: Sequence[DrawParams]) -> DrawColumns:
        """Rows as columns."""
        scale, top_k, top_p, min_p, u = zip(*rows, strict=True)
        return cls(
            np.array(scale, np.float64),
            np.array(top_k, np.int64),
            np.array(top_p, np.float64),
            np.array(min_p, np.float64),
            np.array(u, np.float64),
        )


class Edits(NamedTuple):
    """Edits to one step's logits: row rows[i] uses the first used[i] entries of slot slots[i]."""

    rows: list[int]
    slots: list[int]
    used: list[int]
    bans: list[bool]  # whether the row's banned ids cannot be drawn yet (before min_tokens)
    has_bias: bool  # whether any row has a logit bias
    has_repetition: bool  # whether any row has a repetition penalty
    has_output: bool  # whether any row has a presence or frequency penalty
    leaves: Sequence[int] = ()  # the id that leaves a row's window when its draw enters it, or -1


class Ids(Protocol):
    """The ids that a step drew, one per row; -1 for a row without a result."""

    def host(self) -> list[int]:
        """The ids. Waits until they are known."""
        ...


class HostIds(NamedTuple):
    """`Ids` of a backend that knows them when its call returns."""

    ids: list[int]

    def host(self) -> list[int]:
        """See `Ids.host`."""
        return self.ids


class BiasEntries(Protocol):
    """The tokens whose logits are changed by bias, penalties and bans: entries by slot, stored on
    the device that has the logits.

    An entry is an id and four float32: its bias, whether it is banned (1), how often it is in the
    window, how often it was generated. `engine/penalties.py` has the formula.
    """

    def clear(self) -> None:
        """Remove all slots and free their memory."""
        ...

    def write(
        self,
        slot: int,
        ids: Sequence[int],
        values: Sequence[Sequence[float]],
        factors: tuple[float, float, float],
    ) -> None:
        """Replace a slot's entries: ids [n], values [n, 4]. factors: the slot's penalties, in the
        order REPETITION, PRESENCE, FREQUENCY."""
        ...

    def values(self, slot: int, n: int) -> list[list[float]]:
        """The first n entries of a slot, [n, 4]."""
        ...

    def apply(self, logits: Array, edits: Edits) -> Callable[[Array], None]:
        """Change `logits` [S, V] in place. Returns a function that restores them bit for bit; call
        it with the same logits before the next `apply`."""
        ...


class BiasTable(BiasEntries, Protocol):
    """Entries whose counts the host changes, once it knows what was drawn."""

    @property
    def counted(self) -> Literal["host"]: ...

    def add(self, new: Sequence[tuple[int, int, int]]) -> None:
        """Add entries with zero counts: (slot, place, id)."""
        ...

    def count(self, changes: Sequence[tuple[int, int, int, int]]) -> None:
        """Add to single numbers: (slot, place, column, difference)."""
        ...


class CountingTable(BiasEntries, Protocol):
    """Entries whose counts change on the device as soon as a token is drawn, so that the next step
    can be launched before the host knows it."""

    @property
    def counted(self) -> Literal["device"]: ...

    def exempt(self, slot: int, ids: Sequence[int]) -> None:
        """The ids that a slot's window never has; called after `write`."""
        ...

    def push(self, edits: Edits, ids: Ids) -> None:
        """Count what the edited rows have just drawn, in the order of the device's work; a row
        without a token (-1) counts nothing. `edits.leaves` leave the windows. A slot whose factors
        have no effect on later draws counts nothing."""
        ...


class Sampling(Protocol):
    """From logits [S, V] float32 to ids and log-probabilities; logits are not changed."""

    def greedy(self, logits: Array) -> Ids:
        """Each row's most likely id, the lowest if several are equal; -1 for a row with nan or with
        nothing above -inf."""
        ...

    def choose(
        self,
        logits: Array,
        params: Sequence[DrawParams | None],
        masks: Mapping[int, Bits] | None = None,
    ) -> Ids:
        """One id per row: drawn as `reference/sampling/filters.py` defines it, or chosen as by
        `greedy` if the row's parameters are None.

        masks: by row, the tokens that it may draw: all others count as -inf.
        """
        ...

    def score(
        self,
        logits: Array,
        ids: Sequence[int],
        tops: Sequence[int],
        rows: Sequence[int] | None = None,
    ) -> list[TokenLogprob]:
        """The log-probability of ids[i], and of the tops[i] most likely tokens of row rows[i]
        (None: of all rows), most likely first, ties: lower id first. In float64; -inf scores -inf,
        a row with nan scores nan."""
        ...

    def bias_table(self, max_seqs: int) -> BiasTable | CountingTable:
        """A table for slots 0 .. max_seqs - 1."""
        ...
