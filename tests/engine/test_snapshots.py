"""Recurrent state in the engine: prompts go on from snapshots and get the same tokens."""

from __future__ import annotations

from typing import Any

import pytest

from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Finished, Preempted, Scheduled, Tokens
from rbee_worker.state.specs import Fixed, StateGroup
from tests.engine.fakes import RECURRENT, FakeModel, ask, greedy, make_engine

pytestmark = pytest.mark.usefixtures("backend")
ALONE = (StateGroup(Fixed((("h", (1,)),)), 1),)
BOTH = pytest.mark.parametrize("groups", [ALONE, RECURRENT], ids=["recurrent", "hybrid"])
PROMPT = [5, 6, 7, 8] * 6


def finish(engine: Engine) -> tuple[dict[str, list[int]], list[Any]]:
    """Tokens by request, and everything else that was said."""
    tokens: dict[str, list[int]] = {}
    other: list[Any] = []
    while not engine.idle:
        for out in engine.step():
            if isinstance(out, Tokens):
                tokens.setdefault(out.seq, []).extend(out.ids)
            else:
                other.append(out)
        engine.pool.check()
    return tokens, other


def cached(said: list[Any]) -> list[int]:
    return [out.cached for out in said if isinstance(out, Scheduled)]


@BOTH
def test_a_prompt_goes_on_from_the_last_snapshot_it_shares(
    groups: tuple[StateGroup, ...],
) -> None:
    engine = make_engine(FakeModel(groups), block_size=4)  # a snapshot at every 8 tokens
    for name, prompt, spared in (
        ("first", PROMPT, 0),
        ("again", PROMPT, 16),  # not 24: the last token's logits are wanted
        ("longer", [*PROMPT, 9], 24),
        ("branch", [*PROMPT[:15], 9, *PROMPT], 8),
        ("other", [9, *PROMPT], 0),
    ):
        engine.submit(ask(name, prompt, 10))
        tokens, said = finish(engine)
        assert tokens[name] == greedy(prompt, 10, groups)
        assert cached(said) == [spared], name


@BOTH
def test_the_next_turn_of_a_conversation_goes_on_behind_the_answer(
    groups: tuple[StateGroup, ...],
) -> None:
    engine = make_engine(FakeModel(groups), block_size=4)
    engine.submit(ask("one", PROMPT, 18))
    answer = finish(engine)[0]["one"]
    prompt = [*PROMPT, *answer, 3, 3]
    engine.submit(ask("two", prompt, 5))
    tokens, said = finish(engine)
    assert tokens["two"] == greedy(prompt, 5, groups)
    assert cached(said) == [40]  # of 44: 41 of them were computed for the first answer


def test_a_preempted_sequence_computes_no_more_than_what_is_behind_its_snapshot() -> None:
    engine = make_engine(FakeModel(RECURRENT), tokens=80, block_size=4)
    prompts = {"older": [5] * 9, "younger": [6] * 9}
    for name, prompt in prompts.items():
        engine.submit(ask(name, prompt, 40))
    tokens, said = finish(engine)
    assert tokens == {name: greedy(prompt, 40, RECURRENT) for name, prompt in prompts.items()}
    assert [out.seq for out in said if isinstance(out, Preempted)] == ["younger"]
    assert cached(said) == [0, 0, 32]  # as far as its blocks were not needed by the older one


@BOTH
def test_a_failing_step_spoils_no_snapshot(groups: tuple[StateGroup, ...]) -> None:
    """It may have been copied or not: it is not used."""
    model = FakeModel(groups, fail_on=1000)
    engine = make_engine(model, block_size=4)
    bad = [*PROMPT[:8], 1000, *PROMPT]
    for name, prompt in (("good", PROMPT), ("bad", bad), ("too", [*PROMPT, 4])):
        engine.submit(ask(name, prompt, 12))
    tokens, said = finish(engine)
    assert tokens == {
        "good": greedy(PROMPT, 12, groups),
        "too": greedy([*PROMPT, 4], 12, groups),
    }
    (failed,) = (out for out in said if isinstance(out, Finished) and out.error)
    assert failed.seq == "bad"
    engine.submit(ask("after", [*PROMPT[:8], 3, *PROMPT], 12))
    tokens, _ = finish(engine)
    assert tokens["after"] == greedy([*PROMPT[:8], 3, *PROMPT], 12, groups)


def test_a_model_that_keeps_no_keys_needs_no_blocks() -> None:
    engine = make_engine(FakeModel(ALONE), tokens=256, block_size=4)
    engine.submit(ask("one", PROMPT, 20))
    finish(engine)
    usage = engine.pool.usage()
    assert (usage.total, usage.share) == (0, 0.0)
    assert engine.pool.n_slots == 1 + 8 + 4
