"""`Rounds`: a sequence's drafts, followed as its tokens come, whoever makes the drafts.

The tokens are divided into rounds. A round begins with a draft. It ends with the first token that
is not the draft's, or with the token after the whole draft. A step may compute any part of a draft,
or none; the rest remains valid.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

FIRST_REST, LONGEST_REST = 16, 256  # tokens without drafts, the first time and at most


class Rounds(ABC):
    """The drafts of one sequence.

    tokens: its prompt and output; the engine appends to them. start: how many of them there were
    before the first draft.

    drafted: tokens of all drafts whose first token is decided; accepted: the correct ones of them.
    """

    def __init__(self, tokens: Sequence[int], start: int) -> None:
        self.drafted = self.accepted = 0
        self._tokens = tokens
        self._followed = start  # tokens that `follow` has seen
        self._round = start  # where the round began
        self._draft: tuple[int, ...] | None = None  # of this round; None: not asked for yet
        self._rest, self._until = FIRST_REST, 0  # no draft is made for tokens before `_until`

    def follow(self, end: int) -> tuple[int, int]:
        """Process tokens up to the first `end`. Returns the increase of the two counts."""
        drafted, accepted = self.drafted, self.accepted
        for at in range(self._followed, end):
            draft = self._drafted_from(self._round)
            self._followed = at + 1
            place = at - self._round
            self.drafted += 0 if place else len(draft)
            if place < len(draft) and draft[place] == self._tokens[at]:
                self.accepted += 1
            else:
                self._finish(min(place, len(draft)))
        return self.drafted - drafted, self.accepted - accepted

    def draft(self) -> tuple[int, ...]:
        """The tokens that may come next, after those that `follow` has seen."""
        return self._drafted_from(self._round)[self._followed - self._round :]

    @property
    def resting_until(self) -> int:
        """The length from which on the sequence may draft, whatever its tokens are."""
        return self._until

    @abstractmethod
    def _made(self, at: int) -> tuple[int, ...]:
        """A draft of the tokens after the first `at`; empty if there is none."""

    @abstractmethod
    def _judge(self, drafted: int, accepted: int) -> None:
        """A round has ended, of whose draft so many tokens were correct."""

    def _pause(self) -> None:
        """Draft nothing for some tokens, and for twice as many the next time."""
        self._until = self._followed + self._rest
        self._rest = min(2 * self._rest, LONGEST_REST)

    def _drafted_from(self, at: int) -> tuple[int, ...]:
        """The round's draft, made from the tokens before `at`."""
        if self._draft is None:
            self._draft = self._made(at)
        return self._draft

    def _finish(self, accepted: int) -> None:
        """End the round, of whose draft so many tokens were correct."""
        assert self._draft is not None
        drafted, self._draft = len(self._draft), None
        self._round = self._followed
        if drafted:
            self._judge(drafted, accepted)
