"""The times of steps, by a clock of the test's."""

from __future__ import annotations

import itertools

import pytest

from rbee_worker.engine.messages import StepTimes
from tests.engine.fakes import FakeModel, ask, make_engine
from tests.engine.test_engine import Log


class Ticking(FakeModel):
    """Its steps take 100 microseconds by a clock that goes on by 1 whenever it is looked at."""

    now = 1000.0

    def clock(self) -> float:
        self.now += 1
        return self.now

    def hidden(self, batch: object) -> object:  # type: ignore[override]
        self.now += 100
        return super().hidden(batch)  # type: ignore[arg-type]


@pytest.mark.parametrize("backend", ["now", "late"])
def test_times_of_steps(backend: str) -> None:
    model = Ticking()
    engine = make_engine(model, backend=backend, clock=model.clock, token_budget=6)
    log = Log(engine)
    engine.submit(ask("a", [5, 6, 7, 8, 9, 10, 11], 3))
    engine.submit(ask("b", [12], 2))
    log.drain()
    times: list[StepTimes] = log.kinds(StepTimes)
    what = [(t.sequences, t.prompts, t.prompt_tokens, t.drawn) for t in times]
    # a's prompt in two steps, b beside the second
    assert what == [(1, 1, 6, 0), (2, 0, 0, 2), (2, 0, 0, 2), (1, 0, 0, 1)]
    assert [t.us > 100 for t in times] == [True] * 4
    assert all(a.start_us < b.start_us for a, b in itertools.pairwise(times))
    for t in times:
        if t.drawn:
            assert t.start_us < t.sampling_start_us
            assert t.sampling_start_us + t.sampling_us <= t.start_us + t.us
    if backend == "now":  # one after another, the model outside the sampling
        assert all(t.sampling_us < 100 < t.us < 200 for t in times if t.drawn)
        ends = [t.start_us + t.us for t in times]
        assert all(end < t.start_us for end, t in zip(ends, times[1:], strict=False))
    else:  # a step is told of when the next one has been handed over
        assert all(t.sampling_us > 100 for t in times if t.drawn)
        ends = [t.start_us + t.us for t in times]
        assert all(end > t.start_us for end, t in zip(ends, times[1:], strict=False))


def test_no_times_without_a_clock() -> None:
    engine = make_engine()
    log = Log(engine)
    engine.submit(ask("a", [5, 6], 3))
    log.drain()
    assert log.kinds(StepTimes) == []


def test_a_step_with_drafts_has_no_prompt() -> None:
    """An answer of one token, again and again: few steps, none of which reads a prompt."""
    model = Ticking()
    engine = make_engine(model, clock=model.clock, token_budget=40, speculate="ngram")
    log = Log(engine)
    engine.submit(ask("a", [5, 6], 20, logit_bias={9: 100.0}))
    log.drain()
    assert log.tokens["a"] == [9] * 20
    times: list[StepTimes] = log.kinds(StepTimes)
    assert [(t.prompts, t.prompt_tokens) for t in times] == [(1, 2)] + [(0, 0)] * (len(times) - 1)
    assert sum(t.drawn for t in times) == 20
    assert len(times) < 12
    assert max(model.steps) > 4
