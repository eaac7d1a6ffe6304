"""Prompt lookup: guesses the next tokens of a sequence from earlier places with the same tokens.

Answers repeat their prompt (code that is edited, text that is quoted) and themselves. If the last
`GRAM` tokens occurred before, the tokens that followed them there are a *draft* of the next ones. A
step that computes the draft's tokens beside the known ones draws after each of them; as long as the
draws equal the draft, one step gives several tokens. A draft never changes what is drawn.

Everything here is a function of the request and its tokens, and not of what was computed when:
drafts, their lengths and the two counts are the same alone, in any batch, after a preemption and in
another process.

Drafts cost time: one more row in a step costs less than a step, but something. The longer two
places agree, the longer the draft. A sequence whose recent drafts were mostly wrong drafts nothing
for some tokens (it rests), and twice as long each time that this happens again.

The method: "prompt lookup decoding" (Saxena, 2023) and LLMA (Yang et al., arXiv:2304.04487).
"""

from __future__ import annotations

from collections.abc import Sequence

from rbee_worker.config import Settings
from rbee_worker.engine.rounds import FIRST_REST, Rounds
from rbee_worker.model_info import Task
from rbee_worker.state.specs import Fixed, PagedKV, StateGroup

GRAM = 3  # tokens that two places must have in common
PLACES = 8  # earlier places that are compared, the latest ones
AGREEING = 32  # tokens before a place that are compared, at most
MOST = 14  # tokens of a draft, at most

COST = 0.3  # of a step, for each drafted token: a smaller accepted share does not pay
FADING = 0.9  # a round's weight is multiplied by this after each later one
ENOUGH = 4.0  # weighted drafted tokens that a decision needs

_BITS = 21  # of a token id, in the key of a gram


def why_no_drafts(
    groups: Sequence[StateGroup], kv_cache: bool, speculate: str = "ngram"
) -> str | None:
    """The reason why nothing can be drafted for a model with such state; None if it can be.
    speculate: how, as `Settings.drafts`."""
    if not kv_cache:
        return "without a cache (--no-kv-cache) every token is computed in a step of its own"
    if any(isinstance(group.spec, PagedKV) and group.spec.lanes > 1 for group in groups):
        return "drafts are not built for a model that speaks"
    if speculate != "mtp" and any(isinstance(group.spec, Fixed) for group in groups):
        return "recurrent state cannot take back a token that was drafted and not drawn"
    return None


def drafting_notes(
    settings: Settings, groups: Sequence[StateGroup], task: Task = "generate"
) -> tuple[str, ...]:
    """A note for a person who asked for drafts, if there will be none. task: the model's."""
    why = why_no_drafts(groups, settings.kv_cache, settings.drafts)
    if task != "generate":
        why = "this model draws no tokens"
    if settings.drafts == "off" or why is None:
        return ()
    option = "--draft-model" if settings.draft_model else f"--speculate {settings.speculate}"
    return (f"{option} drafts nothing here: {why}",)


class Drafter(Rounds):
    """The drafts of one sequence: see `Rounds`.

    prompt: the number of prompt tokens. limit: the most tokens that the sequence can have.
    """

    def __init__(self, tokens: Sequence[int], prompt: int, limit: int) -> None:
        super().__init__(tokens, prompt)
        self._limit = limit
        self._last: dict[int, int] = {}  # gram -> the end of its latest occurrence
        self._before: list[int] = [0]  # by end: the end of the occurrence before, or 0
        self._recent = 0.0, 0.0  # drafted and accepted, faded

    def _judge(self, drafted: int, accepted: int) -> None:
        every, good = (FADING * old for old in self._recent)
        every, good = self._recent = every + drafted, good + accepted
        if every < ENOUGH:
            return
        if good < COST * every:
            self._recent = 0.0, 0.0
            self._pause()
        elif good > 2 * COST * every:
            self._rest = FIRST_REST

    def _made(self, at: int) -> tuple[int, ...]:
        """A draft of the tokens after the first `at`; empty if there is none."""
        self._index(at)
        if at < self._until:
            return ()
        agreeing, source = self._source(at)
        # the longer two places agree, the further they will
        n = min(agreeing - GRAM + 1, MOST, self._limit - 1 - at)
        tokens, period = self._tokens, at - source
        return tuple(tokens[source + i % period] for i in range(n))

    def _index(self, end: int) -> None:
        """Index the grams of the first `end` tokens."""
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
        """The earlier place before which the most tokens equal the last ones, the latest if several
        do: how many are equal, and the place. (0, 0): there is none."""
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
