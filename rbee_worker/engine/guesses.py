"""`Guesses`: the drafts of one sequence that a model makes, and how long they should be."""

from __future__ import annotations

from collections.abc import Sequence

from rbee_worker.engine.draft_costs import Ratios, best_length
from rbee_worker.engine.rounds import FIRST_REST, Rounds

FADING = 0.95  # a round's weight is multiplied by this after each later one
HOPE = 0.8  # the chance that a token is accepted, at the beginning and after a rest
WEIGHT = 2.0  # of that, in tokens


class Guesses(Rounds):
    """See `Rounds`. A round has a draft only if one is offered at its beginning. How long it should
    be follows from the share of drafted tokens that was accepted lately, and from what they cost;
    if none would gain anything, the sequence rests."""

    def __init__(
        self, tokens: Sequence[int], start: int, drafted: int = 0, accepted: int = 0
    ) -> None:
        """drafted, accepted: the counts of the first `start` tokens."""
        super().__init__(tokens, start)
        self.drafted, self.accepted = drafted, accepted
        self._good, self._tried = HOPE * WEIGHT, WEIGHT  # tokens accepted of those decided, faded

    @property
    def chance(self) -> float:
        """The chance that a drafted token is accepted if those before it were."""
        return self._good / self._tried

    def wanted(self, ratios: Ratios) -> int:
        """The length of the draft that should be offered now; 0: none."""
        if self._draft or self._followed < self._until:
            return 0
        length = best_length(self.chance, ratios)
        if not length:
            self._pause()
            self._good, self._tried = HOPE * WEIGHT, WEIGHT
        return length

    def offer(self, draft: Sequence[int]) -> None:
        """The tokens that may come after those that `follow` has seen."""
        assert self._round == self._followed
        self._draft = tuple(draft)

    def _made(self, at: int) -> tuple[int, ...]:
        return ()

    def _judge(self, drafted: int, accepted: int) -> None:
        decided = min(accepted + 1, drafted)
        self._good, self._tried = FADING * self._good + accepted, FADING * self._tried + decided
        if accepted == drafted:
            self._rest = FIRST_REST
