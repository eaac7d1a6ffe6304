"""Drafts by prompt lookup, as functions of a request's tokens."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from rbee_worker.engine.lookup import AGREEING, GRAM, MOST, Drafter
from rbee_worker.engine.rounds import FIRST_REST, LONGEST_REST


def made(prompt: Sequence[int], limit: int = 1000) -> tuple[Drafter, list[int]]:
    tokens = list(prompt)
    return Drafter(tokens, len(tokens), limit), tokens


def naive(tokens: Sequence[int], limit: int) -> tuple[int, ...]:
    """The draft after these tokens by trying every place, for a sequence that never rests."""
    end, best, source = len(tokens), 0, 0
    for place in range(end - 1, 0, -1):  # the latest first
        n = 0
        while n < min(AGREEING, place) and tokens[place - 1 - n] == tokens[end - 1 - n]:
            n += 1
        if n > best:
            best, source = n, place
    if best < GRAM:
        return ()
    grown = list(tokens)
    while len(grown) < end + min(best - GRAM + 1, MOST, limit - 1 - end):
        grown.append(grown[source + len(grown) - end])
    return tuple(grown[end:])


def test_what_followed_the_last_tokens_before_is_drafted() -> None:
    drafter, tokens = made([1, 2, 3, 4, 5, 6, 9, 1, 2, 3])
    assert drafter.draft() == (4,)  # three tokens agree: one is drafted
    tokens.append(4)
    drafter.follow(len(tokens))
    assert drafter.draft() == ()  # the token after a draft comes with it
    tokens.append(5)
    drafter.follow(len(tokens))
    assert drafter.draft() == (6, 9, 1)  # five agree
    assert (drafter.drafted, drafter.accepted) == (1, 1)  # a draft counts once it is followed
    tokens += [6, 8]
    drafter.follow(len(tokens))
    assert (drafter.drafted, drafter.accepted) == (4, 2)
    assert drafter.draft() == ()


def test_a_repetition_goes_on() -> None:
    drafter, _ = made([7, 1, 2, 1, 2, 1, 2])
    assert drafter.draft() == (1, 2)
    drafter, _ = made([5] * 40)
    assert drafter.draft() == (5,) * MOST


@pytest.mark.parametrize("ids", [[1], [1, 2], [1, 1], [1, 2, 3], list(range(50))])
def test_nothing_is_drafted_where_nothing_repeats(ids: list[int]) -> None:
    drafter, _ = made(ids)
    assert drafter.draft() == ()


def test_a_draft_ends_where_the_sequence_must() -> None:
    """The last token of all needs no computing."""
    for limit in range(41, 60):
        drafter, _ = made([5] * 40, limit)
        assert len(drafter.draft()) == min(limit - 41, MOST)


def test_the_longest_agreement_decides_and_the_latest_of_equals() -> None:
    drafter, _ = made([9, 1, 2, 3, 50, 8, 1, 2, 3, 60, 0, 9, 1, 2, 3])
    assert drafter.draft()[0] == 50
    drafter, _ = made([9, 1, 2, 3, 50, 9, 1, 2, 3, 60, 0, 9, 1, 2, 3])
    assert drafter.draft()[0] == 60


@pytest.mark.parametrize("seed", range(60))
def test_drafts_are_those_that_trying_every_place_finds(seed: int) -> None:
    """Few places: with more, those that are furthest back are not compared."""
    dice = random.Random(seed)
    tokens = dice.choices(range(dice.choice([20, 60])), k=dice.randint(3, 40))
    part = tokens[dice.randrange(len(tokens)) :][:12]
    tokens += [*part, 99, *part[: dice.randint(1, 12)]]
    limit = len(tokens) + dice.randint(1, 20)
    drafter, _ = made(tokens, limit)
    assert drafter.draft() == naive(tokens, limit)


def test_tokens_that_come_together_or_one_by_one_are_the_same() -> None:
    """Whoever asks for drafts, and how often, changes neither drafts nor counts: so a sequence that
    goes on in another process has both as if it had stayed."""
    for seed in range(40):
        dice = random.Random(seed)
        prompt = dice.choices(range(6), k=dice.randint(1, 60))
        output = dice.choices(range(6), k=120)
        one, tokens = made(prompt)
        for token in output:
            one.draft()
            tokens.append(token)
            one.follow(len(tokens))
        other = Drafter([*prompt, *output], len(prompt), 1000)
        at = len(prompt)
        while at < len(tokens):
            at = min(at + dice.randint(1, 30), len(tokens))
            other.follow(at)
        assert (one.drafted, one.accepted) == (other.drafted, other.accepted)
        assert one.resting_until == other.resting_until
        assert one.draft() == other.draft()
        assert one.drafted > 0


def test_drafting_rests_where_it_does_not_pay_longer_each_time_and_comes_back() -> None:
    """A text whose every fourth token is another than before."""
    dice = random.Random(3)
    base = [dice.randrange(500) for _ in range(40)]
    drafter, tokens = made(base * 4, 10_000)
    rests: list[int] = []
    for i in range(4000):
        # what follows is never what followed before
        tokens.append(base[i % 40] if i % 4 else 1000 + i)
        before = drafter.resting_until
        drafter.follow(len(tokens))
        if drafter.resting_until != before:
            rests.append(drafter.resting_until - len(tokens))
            assert drafter.draft() == ()
    assert rests[0] == FIRST_REST
    assert rests == sorted(rests)
    assert rests[-1] == LONGEST_REST
    assert drafter.drafted < 0.1 * 4000
    tokens += base * 20  # now it pays again
    drafter.follow(len(tokens))
    good = drafter.accepted
    tokens += base * 4
    drafter.follow(len(tokens))
    assert drafter.accepted - good > 0.85 * 160
    assert drafter.resting_until <= len(tokens)
