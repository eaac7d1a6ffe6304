"""What drafts cost, as measured, and the length of a draft that gains the most.

Where a draft is a computation, it pays only if enough of it is accepted. With a chance `a` that a
drafted token is the drawn one, given that those before it were, a draft of k tokens gives

    1 + a + a^2 + ... + a^k     tokens by     1 + k (row + draft)     steps,

where `row` is what one more row adds to a step, and `draft` what drafting one token takes, both in
steps without drafts. (The analysis of Leviathan et al., arXiv:2211.17192.) A model with recurrent
state needs another step after each wrong draft (`Ratios.redoes`). Times decide how many
tokens are drafted, and never which are drawn.
"""

from __future__ import annotations

from collections import defaultdict, deque
from statistics import median
from typing import NamedTuple

KEPT = 9  # the latest times, whose median counts
ENOUGH = 2  # times of plain steps, before anything is drafted
LONGEST = 8  # tokens of a draft, at most
GAIN = 1.02  # a draft that promises less is not made


class Ratios(NamedTuple):
    """The cost of one more row for each sequence, and of drafting a token for each, in steps
    without drafts. redoes: after a wrong draft, a step without one computes again what was right.
    """

    row: float
    draft: float
    redoes: bool = False


class Costs:
    """Times of steps by number of sequences, all of which compute one token beside their draft."""

    def __init__(self, *, redoes: bool = False) -> None:
        self._redoes = redoes
        self._plain: dict[int, deque[float]] = defaultdict(_times)
        self._row: dict[int, deque[float]] = defaultdict(_times)
        self._draft: dict[int, deque[float]] = defaultdict(_times)

    def stepped(self, sequences: int, drafted: int, seconds: float) -> None:
        """A step took so long, in which so many drafted rows were computed too."""
        plain = self._plain[sequences]
        if not drafted:
            plain.append(seconds)
        elif plain:
            self._row[sequences].append(max(seconds - median(plain), 0.0) / drafted)

    def drew(self, sequences: int, seconds: float) -> None:
        """Drafting one token for each of so many sequences took so long."""
        self._draft[sequences].append(seconds)

    def ratios(self, sequences: int) -> Ratios | None:
        """The costs in a step of so many sequences that all draft; None as long as no plain step
        was measured. What was not measured yet costs nothing, so that it will be."""
        plain = self._plain[sequences]
        if len(plain) < ENOUGH:
            return None
        step, rows, drafts = median(plain), self._row[sequences], self._draft[sequences]
        return Ratios(
            sequences * median(rows) / step if rows else 0.0,
            median(drafts) / step if drafts else 0.0,
            self._redoes,
        )


def _times() -> deque[float]:
    return deque(maxlen=KEPT)


def expected(accepted: float, k: int) -> float:
    """The tokens that a step gives with a draft of k, each accepted with this chance if those
    before it were."""
    return sum(accepted**i for i in range(k + 1))


def speed_up(accepted: float, k: int, ratios: Ratios) -> float:
    """How many times as fast tokens come with drafts of k tokens as without."""
    tokens, steps = expected(accepted, k), 1 + k * (ratios.row + ratios.draft)
    if ratios.redoes:  # the other step gives one token more
        wrong = 1 - accepted**k
        tokens, steps = tokens + wrong, steps + wrong * (1 + k * ratios.row)
    return tokens / steps


def best_length(accepted: float, ratios: Ratios) -> int:
    """The length of a draft that gains the most; 0: none gains anything."""
    best = max(range(LONGEST + 1), key=lambda k: speed_up(accepted, k, ratios))
    return best if speed_up(accepted, best, ratios) >= GAIN else 0
