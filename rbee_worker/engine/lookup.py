"""Prompt lookup: what may come next in a sequence, read off where its last tokens stood before.

Answers repeat their prompt (code that is edited, text that is quoted) and themselves. Where the
last `GRAM` tokens stand further up too, what followed there is a *draft* of what comes. A step
that computes the draft's tokens beside the known ones draws after each of them; while draw equals
draft, several tokens come of one step. What is drawn never depends on a draft.

Everything here is a function of the request and of its tokens, not of what was computed when:
drafts, their lengths and the two counts are the same alone, in any batch, after a preemption and
in another process. Rounds: a draft is made for the tokens from some place on; it is followed while
the tokens are its own; the first that is not, or the one after the whole draft, ends the round. A
step may compute less of a draft than there is, or nothing of it: the rest still stands.

Drafts cost: a row more in a step is cheaper than a step, and not free. What was drafted and what
was accepted lately decide how long a draft may be; where too little was, the sequence drafts
nothing for a while, and for a longer one each time in a row.

The method is that of "prompt lookup decoding" (Saxena, 2023) and of LLMA (Yang et al.,
arXiv:2304.04487).
"""

from __future__ import annotations

from collections.abc import Sequence

from rbee_worker.config import Settings
from rbee_worker.state.specs import Fixed, StateGroup

GRAM = 3  # tokens that must stand in both places
PLACES = 8  # earlier places that are compared, the latest first
AGREEING = 32  # tokens before a place that are compared at most
MOST = 14  # tokens of a draft

COST = 0.3  # a drafted token's share of a step: fewer accepted ones do not pay
FADING = 0.9  # what a round weighs after the next one
ENOUGH = 4.0  # drafted tokens, faded, without which nothing is concluded
FIRST_REST, LONGEST_REST = 16, 256  # tokens without a draft, after the first and later failures

_BITS = 21  # of a token id, in the key of a gram


def why_no_drafts(groups: Sequence[StateGroup], kv_cache: bool) -> str | None:
    """Why nothing can be drafted for a model that keeps such state; None: it can be."""
    if not kv_cache:
        return "without a cache (--no-kv-cache) every token is computed in a step of its own"
    if any(isinstance(group.spec, Fixed) for group in groups):
        return "recurrent state cannot give up a token that was drafted and not drawn"
    return None


def drafting_notes(settings: Settings, groups: Sequence[StateGroup]) -> tuple[str, ...]:
    """What a person who asked for drafts should know."""
    why = why_no_drafts(groups, settings.kv_cache)
    if settings.speculate == "off" or why is None:
        return ()
    return (f"--speculate {settings.speculate} drafts nothing here: {why}",)


class Drafter:
    """Drafts of one sequence. tokens: its prompt and output, which grow elsewhere; limit: tokens
    that it can have at most.

    drafted, accepted: tokens of all drafts that were followed so far, and those of them that came.
    """

    def __init__(self, tokens: Sequence[int], prompt: int, limit: int) -> None:
        self.drafted = self.accepted = 0
        self._tokens, self._limit = tokens, limit
        self._last: dict[int, int] = {}  # gram -> where its latest occurrence ends
        self._before: list[int] = [0]  # by end: where the occurrence before ends, 0: there is none
        self._followed = prompt  # tokens that are taken account of
        self._round = prompt  # where the round began
        self._draft: tuple[int, ...] | None = None  # of this round; None: not asked for yet
        self._recent = 0.0, 0.0  # drafted and accepted, faded
        self._rest, self._until = FIRST_REST, 0  # no draft is made for tokens before `_until`

    def follow(self, end: int) -> tuple[int, int]:
        """Take account of the first `end` tokens. Returns by how much the two counts have grown."""
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
        """Tokens that may come after those followed."""
        return self._drafted_from(self._round)[self._followed - self._round :]

    @property
    def resting_until(self) -> int:
        """How many tokens the sequence has when it may draft again, whatever they are."""
        return self._until

    def _drafted_from(self, at: int) -> tuple[int, ...]:
        """The round's draft, made from the tokens before `at`."""
        if self._draft is None:
            self._draft = self._made(at)
        return self._draft

    def _finish(self, accepted: int) -> None:
        """The round is over: so many of its drafted tokens have come."""
        assert self._draft is not None
        drafted, self._draft = len(self._draft), None
        self._round = self._followed
        if not drafted:
            return
        every, good = (FADING * old for old in self._recent)
        every, good = self._recent = every + drafted, good + accepted
        if every < ENOUGH:
            return
        if good < COST * every:
            self._until, self._recent = self._round + self._rest, (0.0, 0.0)
            self._rest = min(2 * self._rest, LONGEST_REST)
        elif good > 2 * COST * every:
            self._rest = FIRST_REST

    def _made(self, at: int) -> tuple[int, ...]:
        """A draft of what comes after the first `at` tokens."""
        self._index(at)
        if at < self._until:
            return ()
        agreeing, source = self._source(at)
        # the longer two places agree, the further they will
        n = min(agreeing - GRAM + 1, MOST, self._limit - 1 - at)
        tokens, period = self._tokens, at - source
        return tuple(tokens[source + i % period] for i in range(n))

    def _index(self, end: int) -> None:
        """Know the grams of the first `end` tokens."""
        tokens, last, before = self._tokens, self._last, self._before
        start = len(before)
        if start < GRAM:
            before += [0] * (min(GRAM - 1, end) + 1 - start)
            start = len(before)
        mask = (1 << _BITS * GRAM) - 1
        gram = 0
        for token in tokens[max(0, start - GRAM) : start - 1]:
            gram = gram << _BITS | token
        for at in range(start, end + 1):
            gram = (gram << _BITS | tokens[at - 1]) & mask
            before.append(last.get(gram, 0))
            last[gram] = at

    def _source(self, at: int) -> tuple[int, int]:
        """The earlier place whose tokens agree longest with the last ones, the latest of equals:
        how many agree, and where it is. (0, 0): there is none."""
        tokens, best, source = self._tokens, 0, 0
        place = self._before[at]
        for _ in range(PLACES):
            if not place:
                break
            n, most = GRAM, min(AGREEING, place)
            while n < most and tokens[place - 1 - n] == tokens[at - 1 - n]:
                n += 1
            if n > best:
                best, source = n, place
            place = self._before[place]
        return best, source
