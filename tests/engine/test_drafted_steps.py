"""Which steps compute drafted tokens, how many, and when they stop."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from rbee_worker.config import DRAFTED_ROWS, Settings
from rbee_worker.engine.engine import Engine
from rbee_worker.engine.lookup import MOST, drafting_notes
from rbee_worker.engine.messages import Submit
from rbee_worker.engine.scheduler import Plan
from rbee_worker.types import SamplingParams
from tests.engine.fakes import BACKENDS, FULL, RECURRENT, FakeModel, ask, greedy, make_engine
from tests.engine.test_engine import Log

SAME = {"logit_bias": {9: 100.0}}  # an answer of one token, again and again


class Watched:
    """An engine that drafts. rows: of each step and sequence, known and drafted tokens."""

    def __init__(self, model: FakeModel | None = None, **options: Any) -> None:
        self.engine = make_engine(model, speculate="ngram", **options)
        self.log = Log(self.engine)
        self.rows: list[list[tuple[int, int]]] = []
        launch = self.engine.runner.launch

        def watch(plan: Plan) -> Any:
            self.rows.append([(c.count - len(c.draft), len(c.draft)) for c in plan.chunks])
            return launch(plan)

        self.engine.runner.launch = watch  # type: ignore[method-assign]

    def run(self, *requests: Submit) -> Log:
        for request in requests:
            self.engine.submit(request)
        return self.log.drain()


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8])
def test_the_more_sequences_a_step_has_the_fewer_tokens_are_drafted(n: int) -> None:
    watched = Watched(token_budget=64, tokens=2048)
    log = watched.run(*(ask(f"s{i}", [5, 6, i], 60, **SAME) for i in range(n)))
    assert all(ids == [9] * 60 for ids in log.tokens.values())
    full = [step for step in watched.rows if len(step) == n and all(n == 1 for n, _ in step)]
    most = max(0, DRAFTED_ROWS - 2 * n)
    assert max(sum(drafted for _, drafted in step) for step in full) == min(most, n * MOST)
    if 1 < n <= most:  # where all have drafts that are long enough, in equal shares
        drafts = [sorted(drafted for _, drafted in step) for step in full]
        assert any(sum(d) == most and d[-1] - d[0] <= 1 for d in drafts)


def test_a_step_that_reads_a_prompt_drafts_nothing() -> None:
    watched = Watched(token_budget=24, tokens=2048)
    watched.engine.submit(ask("a", [5, 6], 90, **SAME))
    for _ in range(8):
        watched.log.step()
    assert watched.rows[-1][0][1] > 0
    before = len(watched.rows)
    watched.run(ask("b", list(range(4, 60)) * 2, 3))
    reading = [step for step in watched.rows[before:] if any(n > 1 for n, _ in step)]
    assert len(reading) >= 4
    assert all(drafted == 0 for step in reading for _, drafted in step)
    assert watched.log.tokens["a"] == [9] * 90


def test_nobody_is_preempted_for_a_draft() -> None:
    """A pool that has room for just these two sequences, to their last token."""
    watched = Watched(tokens=48, block_size=4, prefix_cache=False)
    log = watched.run(*(ask(name, [5, 6], 22, **SAME) for name in "ab"))
    assert log.tokens == {"a": [9] * 22, "b": [9] * 22}
    assert watched.engine.stats().preemptions == 0
    assert sum(drafted for step in watched.rows for _, drafted in step) > 10


def test_what_cannot_be_guessed_is_soon_not_drafted() -> None:
    """Five tokens at random: the last three often stood before, and what followed says nothing."""
    model = FakeModel(context=1200)
    watched = Watched(model, tokens=1200, token_budget=40)
    params = SamplingParams(max_tokens=1000, seed=3, logit_bias=dict.fromkeys(range(5), 100.0))
    log = watched.run(Submit(seq="a", prompt_ids=(5, 6), params=params))
    usage = log.finished["a"].usage
    assert usage.output_tokens == 1000
    assert 10 < usage.drafted_tokens < 150
    assert usage.accepted_tokens < 0.4 * usage.drafted_tokens
    drafting = [number for number, step in enumerate(watched.rows) if step[0][1]]
    assert len([n for n in drafting if n < 200]) > 2 * len([n for n in drafting if n >= 600])
    rests = [b - a for a, b in pairwise(drafting)]
    assert max(rests) >= 200


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_sequence_that_rests_does_not_wait_for_its_tokens(backend: str) -> None:
    """Where steps overlap, one that may draft does, and one that may not goes on blindly."""
    model = FakeModel(context=1200)
    watched = Watched(model, tokens=1200, token_budget=40, backend=backend)
    params = SamplingParams(max_tokens=600, seed=3, logit_bias=dict.fromkeys(range(5), 100.0))
    log = watched.run(Submit(seq="a", prompt_ids=(5, 6), params=params))
    plain = Log(make_engine(FakeModel(context=1200), tokens=1200, token_budget=40, backend="now"))
    plain.engine.submit(Submit(seq="a", prompt_ids=(5, 6), params=params))
    assert log.tokens == plain.drain().tokens
    if backend != "now":
        taken = watched.engine.runner._memory.device.taken  # type: ignore[attr-defined]
        assert 300 < taken < 595


@pytest.mark.parametrize("backend", BACKENDS)
def test_penalties_where_a_prompt_is_found_but_for_its_last_token(backend: str) -> None:
    """Its first step has one row. Where steps overlap, rows whose draws are counted one by one
    would take the place of the draws that the next step begins with."""
    few = {10: 100.0}  # what the first draft begins with
    prompt = [9, 10, 11] * 4 + [9]
    counted = {"frequency_penalty": 0.2, "logit_bias": few}
    asked = [ask(name, prompt, 30, **counted) for name in "bc"]
    asked += [ask("d", [5, 6, 7], 30), ask("e", [6, 7, 8], 30, logit_bias=few)]
    found = []
    for speculate in ("off", "ngram"):
        engine: Engine = make_engine(speculate=speculate, backend=backend, tokens=1024)
        log = Log(engine)
        engine.submit(ask("a", prompt, 3))
        log.drain()
        engine.submit(ask("d0", [4, 4], 12, speculation=False))  # it does not wait
        log.step()
        for request in asked:
            engine.submit(request)
            log.step()
        found.append(log.drain().tokens)
    assert found[0] == found[1]
    assert found[0]["d"] == greedy([5, 6, 7], 30)


def test_recurrent_state_is_told_to_draft_nothing() -> None:
    watched = Watched(FakeModel(RECURRENT))
    assert watched.engine.speculate == "off"
    watched.run(ask("a", [5, 6], 30, **SAME))
    assert all(drafted == 0 for step in watched.rows for _, drafted in step)
    [note] = drafting_notes(Settings(speculate="ngram"), RECURRENT)
    assert note.startswith("--speculate ngram drafts nothing here: recurrent state")
    assert drafting_notes(Settings(speculate="off"), RECURRENT) == ()
    assert drafting_notes(Settings(speculate="ngram"), FULL) == ()


def test_a_model_for_vectors_is_told_to_draft_nothing() -> None:
    [note] = drafting_notes(Settings(speculate="ngram"), FULL, "embed")
    assert note == "--speculate ngram drafts nothing here: this model draws no tokens"
    assert drafting_notes(Settings(), FULL, "embed") == ()
