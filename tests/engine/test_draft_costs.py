"""What drafts cost and gain, how long they should be, and that they stop where they do not pay."""

from __future__ import annotations

import random

import pytest

from rbee_worker.engine.draft_costs import (
    ENOUGH,
    LONGEST,
    Costs,
    Ratios,
    best_length,
    expected,
    speed_up,
)
from rbee_worker.engine.guesses import Guesses
from rbee_worker.engine.rounds import FIRST_REST, LONGEST_REST


@pytest.mark.parametrize(("chance", "k"), [(0.0, 3), (0.5, 1), (0.8, 4), (0.95, 8), (1.0, 5)])
def test_tokens_of_a_step_as_a_simulation_gives_them(chance: float, k: int) -> None:
    dice, rounds = random.Random(1), 40_000
    tokens = 0
    for _ in range(rounds):
        accepted = next((n for n in range(k) if dice.random() >= chance), k)
        tokens += accepted + 1
    assert expected(chance, k) == pytest.approx(tokens / rounds, rel=0.02)


def test_the_length_that_gains_the_most() -> None:
    free, dear = Ratios(0.0, 0.0), Ratios(0.3, 0.5)
    assert best_length(1.0, free) == LONGEST
    assert best_length(0.0, free) == 0
    assert best_length(0.5, dear) == 0
    assert speed_up(0.9, 1, Ratios(0.1, 0.1)) == pytest.approx(1.9 / 1.2)
    lengths = [best_length(chance / 20, Ratios(0.1, 0.1)) for chance in range(21)]
    assert lengths == sorted(lengths)  # the better the drafts, the longer
    assert lengths[0] == 0
    assert lengths[-1] == LONGEST


@pytest.mark.parametrize(("chance", "k"), [(0.0, 2), (0.6, 1), (0.8, 2), (0.9, 3), (1.0, 4)])
def test_a_step_more_after_each_wrong_draft(chance: float, k: int) -> None:
    """Where state cannot take a token back, as a simulation gives it."""
    dice, rounds, ratios = random.Random(2), 40_000, Ratios(0.0, 0.1, redoes=True)
    tokens, time = 0.0, 0.0
    for _ in range(rounds):
        accepted = next((n for n in range(k) if dice.random() >= chance), k)
        tokens, time = tokens + accepted + 1, time + 1 + 0.1 * k
        if accepted < k:
            tokens, time = tokens + 1, time + 1
    assert speed_up(chance, k, ratios) == pytest.approx(tokens / time, rel=0.02)
    assert best_length(chance, ratios) <= best_length(chance, Ratios(0.0, 0.1))


def test_costs_are_medians_of_what_was_measured() -> None:
    costs = Costs()
    assert costs.ratios(1) is None
    for seconds in (0.1, 0.5, 0.1):
        costs.stepped(1, 0, seconds)
    assert costs.ratios(1) == Ratios(0.0, 0.0)  # unknown: to be measured
    assert costs.ratios(2) is None  # another number of sequences
    for _ in range(3):
        costs.stepped(1, 4, 0.14)
        costs.drew(1, 0.02)
    ratios = costs.ratios(1)
    assert ratios is not None
    assert ratios.row == pytest.approx(0.1)
    assert ratios.draft == pytest.approx(0.2)
    for _ in range(ENOUGH):
        costs.stepped(2, 0, 0.1)
    costs.stepped(2, 4, 0.14)  # two rows more for each
    costs.drew(2, 0.03)  # a token for each
    ratios = costs.ratios(2)
    assert ratios is not None
    assert ratios.row == pytest.approx(0.2)
    assert ratios.draft == pytest.approx(0.3)


def played(chance: float, ratios: Ratios, tokens: int) -> tuple[Guesses, float]:
    """Guesses whose drafts are right with this chance, and the steps that the tokens took."""
    dice, known = random.Random(2), [1, 2, 3]
    guesses, steps = Guesses(known, len(known)), 0.0
    while len(known) < tokens:
        guesses.follow(len(known))
        length = guesses.wanted(ratios)
        if length:
            guesses.offer([7] * length)
        draft = guesses.draft()
        steps += 1 + len(draft) * (ratios.row + ratios.draft)
        for _ in range(len(draft) + 1):
            right = dice.random() < chance
            known.append(7 if right else 8)
            if not right:
                break
    guesses.follow(len(known))
    return guesses, steps


@pytest.mark.parametrize("ratios", [Ratios(0.05, 0.05), Ratios(0.1, 0.15), Ratios(0.3, 0.3)])
@pytest.mark.parametrize("chance", [0.0, 0.2, 0.4, 0.6, 0.8, 0.95])
def test_a_draft_is_as_long_as_it_pays(chance: float, ratios: Ratios) -> None:
    """Never more than a little slower than without drafts, and near the best fixed length."""
    tokens = 4000
    guesses, steps = played(chance, ratios, tokens)
    best = max(speed_up(chance, k, ratios) for k in range(LONGEST + 1))
    assert tokens / steps > 0.95 * best
    if chance == 0.0:
        assert guesses.drafted < 0.1 * tokens
        assert guesses.resting_until - tokens <= LONGEST_REST


def test_a_sequence_that_rests_wants_nothing_until_then() -> None:
    known = [1]
    guesses = Guesses(known, 1)
    assert guesses.wanted(Ratios(2.0, 2.0)) == 0
    assert guesses.resting_until == 1 + FIRST_REST
    known += [5] * FIRST_REST
    guesses.follow(len(known) - 1)
    assert guesses.wanted(Ratios(0.0, 0.0)) == 0
    guesses.follow(len(known))
    assert guesses.wanted(Ratios(0.0, 0.0)) > 0


def test_what_is_left_of_a_draft_is_used_first() -> None:
    known = [1, 2]
    guesses = Guesses(known, 2, drafted=10, accepted=6)
    guesses.offer([5, 6, 7])
    assert guesses.wanted(Ratios(0.0, 0.0)) == 0
    known.append(5)
    assert guesses.follow(3) == (3, 1)
    assert guesses.draft() == (6, 7)
    known.append(9)
    assert guesses.follow(4) == (0, 0)
    assert guesses.draft() == ()
    assert (guesses.drafted, guesses.accepted) == (13, 7)
