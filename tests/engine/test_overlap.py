"""Steps that overlap: the tokens are those of steps that do not, whatever happens in between.

The backend is late.py's: a step's results are there only when somebody waits for them, which the
engine does after it has launched the next step.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import pytest

from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import (
    Cancel,
    Finished,
    Preempted,
    PromptScores,
    Rescaled,
    Scheduled,
    Submit,
    Tokens,
)
from rbee_worker.engine.prompt_logits import prompt_logits
from rbee_worker.engine.runner import Launched
from rbee_worker.engine.scheduler import Plan
from rbee_worker.state.specs import StateGroup
from rbee_worker.types import EosToken, SamplingParams
from tests.engine.fakes import (
    BACKENDS,
    FULL,
    MIXED,
    RECURRENT,
    WINDOWED,
    FakeModel,
    ask,
    expected,
    greedy,
    make_engine,
    next_logits,
)
from tests.engine.late import Device
from tests.engine.test_engine import Log

LATE = [name for name in BACKENDS if name != "now"]
GROUPS: dict[str, tuple[StateGroup, ...]] = {
    "full": FULL,
    "mixed": MIXED,
    "windowed": WINDOWED,
    "recurrent": RECURRENT,
}
SWITCH = 22  # rope length past which keys are computed again
SAMPLING: list[dict[str, Any]] = [
    {"temperature": 0.0},
    {"temperature": 1.2},
    {"temperature": 0.0, "logprobs": 2},
    {"temperature": 0.9, "top_k": 7, "top_p": 0.9, "logprobs": 0},
    {"temperature": 1.0, "repetition_penalty": 1.3, "repeat_last_n": 9},
    {"temperature": 0.0, "frequency_penalty": 0.7, "presence_penalty": 0.2, "logprobs": 1},
    {"temperature": 1.5, "logit_bias": {9: 2.0, 11: -3.0}},
    {"temperature": 1.5, "min_tokens": 5},
    {"temperature": 0.0, "min_tokens": 3, "stop_token_ids": (5, 9, 14, 20, 33, 41)},
    {"temperature": 1.5, "min_tokens": 6, "presence_penalty": 0.5, "stop_token_ids": (7, 8)},
]
EOS = tuple(EosToken(id=i, text="", origins=("test",)) for i in (2, 17, 40, 51))


@cache
def requests(few: bool = False) -> tuple[Submit, ...]:
    """Prompts that partly share their beginning; two choices of some. few: answers are made of
    two tokens, and so repeat themselves."""
    rng = random.Random(5)
    shared = rng.choices(range(64), k=24)
    made: list[Submit] = []
    for i in range(30):
        own = rng.choices(range(64), k=rng.randint(1, 14))
        kind = SAMPLING[i % len(SAMPLING)]
        if few:
            bias = dict.fromkeys(rng.sample(range(64), k=2), 50.0)
            kind = kind | {"logit_bias": bias, "speculation": i % 4 != 3}
        given = Submit(
            seq=f"r{i}",
            prompt_ids=(*shared[: rng.choice([0, 0, 9, 16, 24])], *own),
            params=SamplingParams(max_tokens=rng.choice([1, 4, 13, 22]), seed=i, **kind),
            eos=EOS if i % 4 else (),
            prompt_logprobs=i % 5 == 2,
        )
        made.append(given)
        if i % 6 == 1:
            made.append(
                Submit(
                    seq=f"r{i}b",
                    prompt_ids=given.prompt_ids,
                    params=given.params,
                    eos=given.eos,
                    choice=1,
                )
            )
    return tuple(made)


@dataclass
class Answer:
    """What a request was told."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    scores: list[Any] = field(default_factory=list)
    rule: str = ""
    error: str | None = None


class Run:
    """An engine, its answers, and how often what the test is about has happened."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers: dict[str, Answer] = {}
        self.seen: Counter[str] = Counter()

    def submit(self, request: Submit) -> None:
        self.answers[request.seq] = Answer()
        self.engine.submit(request)

    def step(self) -> None:
        for out in self.engine.step():
            answer = self.answers.get(getattr(out, "seq", ""), Answer())
            if isinstance(out, Tokens):
                assert not answer.rule, "a token after the end"
                answer.ids += out.ids
                answer.logprobs += out.logprobs or ()
            elif isinstance(out, PromptScores):
                answer.scores += out.logprobs
            elif isinstance(out, Finished):
                assert not answer.rule, "ended twice"
                answer.rule, answer.error = out.stop.rule, out.error
            elif isinstance(out, Preempted | Rescaled):
                self.seen[type(out).__name__] += 1
            elif isinstance(out, Scheduled):
                self.seen["cached"] += out.cached
        self.engine.pool.check()
        pending = self.engine._pending
        if pending is not None:
            self.seen["ended in flight"] += sum(c.seq.done for c in pending.plan.chunks)

    def end(self) -> None:
        most = 3000
        while not self.engine.idle:
            self.step()
            most -= 1
            assert most, "it does not end"
        assert self.engine.pool.usage().used == 0
        assert not self.engine._live
        assert len(self.engine.runner._slots) == 8


@cache
def alone(groups: str, switch: int | None, few: bool = False) -> dict[str, Answer]:
    """Each request in an engine of its own, one step after another, with nothing drafted."""
    found = {}
    for request in requests(few):
        run = Run(make_engine(FakeModel(GROUPS[groups], switch=switch), backend="now"))
        run.submit(request)
        run.end()
        found |= run.answers
    return found


def schedule(backend: str, seed: int, *, speculate: str = "off") -> Counter[str]:
    """One random schedule, held against what each of its requests got alone."""
    few = speculate != "off"
    rng = random.Random(seed)
    groups, switch = rng.choice(list(GROUPS)), rng.choice([None, None, SWITCH])
    want = alone(groups, switch, few)
    model = FakeModel(GROUPS[groups], switch=switch)
    engine = make_engine(
        model,
        tokens=rng.choice([72, 96, 128, 400]),
        token_budget=rng.choice([3, 7, 16, 40]),
        block_size=rng.choice([1, 4, 8]),
        kv_cache=rng.random() > 0.1,
        prefix_cache=rng.random() > 0.2,
        speculate=speculate,
        backend=backend,
    )
    run = Run(engine)
    launch = engine.runner.launch

    def counting(plan: Plan) -> Launched:
        run.seen["drafted rows"] += sum(len(chunk.draft) for chunk in plan.chunks)
        return launch(plan)

    engine.runner.launch = counting  # type: ignore[method-assign]
    given: dict[str, tuple[Submit, int]] = {}  # as what it runs -> itself, tokens it had before
    for n, request in enumerate(rng.choices(requests(few), k=rng.randint(3, 10))):
        # what is resumed past the switch scores its prompt with the long frequencies
        resumes = rng.random() < 0.2 and not (switch and request.prompt_logprobs)
        had = rng.randrange(len(want[request.seq].ids)) if resumes else 0
        given[f"{request.seq}-{n}"] = request, had
    waiting = list(given)
    errors = rng.random() < 0.3
    while waiting or not engine.idle:
        for _ in range(min(rng.choice([0, 1, 3]), len(waiting))):
            name = waiting.pop()
            request, had = given[name]
            output = tuple(want[request.seq].ids[:had])
            run.submit(
                Submit(
                    seq=name,
                    prompt_ids=request.prompt_ids,
                    params=request.params,
                    output_ids=output,
                    choice=request.choice,
                    eos=request.eos,
                    prompt_logprobs=request.prompt_logprobs,
                )
            )
        if rng.random() < 0.04 and run.answers:
            engine.cancel(Cancel(seq=rng.choice(list(run.answers))))
        # now and then a step of several sequences fails; nobody is to blame
        model.fail_rows = 1 if errors and rng.random() < 0.04 else 1 << 30
        run.step()
    run.end()
    for name, (request, had) in given.items():
        got, one = run.answers[name], want[request.seq]
        left = slice(had, had + len(got.ids) if got.rule in ("CANCELLED", "ERROR") else None)
        assert got.ids == one.ids[left], (name, got.rule)
        assert repr(got.logprobs) == repr(one.logprobs[left]) or not one.logprobs, name
        assert got.scores == one.scores or got.rule in ("CANCELLED", "ERROR"), name
        assert got.rule == one.rule or got.rule in ("CANCELLED", "ERROR"), name
        run.seen["compared"] += len(got.ids)
        run.seen["resumed"] += had > 0
        run.seen[got.rule] += 1
    stats = engine.stats()
    run.seen["accepted"] += stats.accepted_tokens
    run.seen["rejected"] += stats.drafted_tokens - stats.accepted_tokens
    if backend != "now":
        device = device_of(engine)
        assert device.most_waiting <= 2
        run.seen["taken"] += device.taken
    return run.seen


def device_of(engine: Engine) -> Device:
    device: Device = engine.runner._memory.device  # type: ignore[attr-defined]
    return device


@pytest.mark.parametrize(
    ("backend", "seeds"), [("late", range(200)), ("late, padded", range(200, 400, 2))]
)
def test_the_same_tokens_in_random_schedules(backend: str, seeds: range) -> None:
    seen: Counter[str] = Counter()
    for seed in seeds:
        seen += schedule(backend, seed)
    # Otherwise too little of what this test is about has happened.
    least = {
        "compared": 8000,
        "taken": 3000,
        "ended in flight": 200,
        "cached": 2000,
        "resumed": 100,
        "Preempted": 20,
        "Rescaled": 50,
        "EOS": 200,
        "STOP_SEQUENCE": 30,
        "CANCELLED": 50,
        "ERROR": 5,
    }
    for name, n in least.items():
        assert seen[name] >= n * len(seeds) / 200, seen


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_tokens_with_drafts(backend: str) -> None:
    """And recurrent state has none. Not every draft is computed: steps are often full."""
    seen: Counter[str] = Counter()
    for seed in range(1000, 1100):
        seen += schedule(backend, seed, speculate="ngram")
    least = {
        "compared": 4000,
        "drafted rows": 200,
        "accepted": 200,
        "rejected": 200,
        "cached": 1000,
        "resumed": 50,
        "Preempted": 10,
        "Rescaled": 10,
        "EOS": 50,
        "CANCELLED": 25,
        "ERROR": 5,
    }
    for name, n in least.items():
        assert seen[name] >= n, seen
    assert backend == "now" or seen["taken"] > 500, seen


def finish(engine: Engine, *requests: Submit) -> Log:
    for request in requests:
        engine.submit(request)
    return Log(engine).drain()


@pytest.mark.parametrize("backend", LATE)
def test_a_step_is_launched_while_the_one_before_runs(backend: str) -> None:
    """All but the first token of a greedy answer come of a token that the host did not know."""
    model = FakeModel()
    engine = make_engine(model, backend=backend)
    log = finish(engine, ask("a", [5, 6, 7], 9), ask("b", [8, 9], 9))
    assert log.tokens == {"a": greedy([5, 6, 7], 9), "b": greedy([8, 9], 9)}
    device = device_of(engine)
    assert (device.most_waiting, device.taken) == (2, 16)
    assert len(model.steps) == 9  # and none for a token that cannot come


def test_padded_steps_have_few_sizes() -> None:
    model = FakeModel()
    engine = make_engine(model, backend="late, padded", token_budget=40, prefix_cache=False)
    names = "abcdefg"
    log = finish(engine, *(ask(name, [5 + i], 3 + 2 * i) for i, name in enumerate(names)))
    assert log.tokens == {n: greedy([5 + i], 3 + 2 * i) for i, n in enumerate(names)}
    assert set(model.steps) == {1, 2, 4, 8}


WAITING: list[tuple[dict[str, Any], bool]] = [
    ({}, False),
    ({"logit_bias": {9: 1.0}}, False),
    ({"min_tokens": 5, "stop_token_ids": (9,)}, False),
    ({"logprobs": 3}, False),
    ({"repetition_penalty": 1.1}, True),
    ({"presence_penalty": 0.1}, True),
    ({"frequency_penalty": 0.1}, True),
]


@pytest.mark.parametrize(("params", "waits"), WAITING, ids=str)
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_only_what_depends_on_the_token_before_waits_for_it(
    params: dict[str, Any], waits: bool, temperature: float
) -> None:
    asked = SamplingParams(temperature=temperature, seed=3, max_tokens=12, **params)
    request = Submit(seq="a", prompt_ids=(5, 6, 7), params=asked)
    one = finish(make_engine(), request)
    engine = make_engine(backend="late")
    assert finish(engine, request).tokens == one.tokens
    assert device_of(engine).taken == (0 if waits else len(one.tokens["a"]) - 1)


@pytest.mark.parametrize("backend", LATE)
def test_without_a_cache_every_token_is_known_before_it_is_computed(backend: str) -> None:
    engine = make_engine(model := FakeModel(), backend=backend, kv_cache=False)
    assert finish(engine, ask("a", [5, 6, 7], 4)).tokens["a"] == greedy([5, 6, 7], 4)
    assert (model.steps, device_of(engine).taken) == ([3, 4, 5, 6], 0)


@pytest.mark.parametrize("backend", LATE)
def test_a_sequence_waits_where_its_rope_length_changes(backend: str) -> None:
    """Token 17 of a model whose frequencies change past 16: its place in the sequence is known, its
    frequencies only go with all of the keys."""
    engine = make_engine(FakeModel(switch=16), backend=backend)
    log = finish(engine, ask("a", list(range(4, 14)), 12))
    assert log.tokens["a"] == greedy(list(range(4, 14)), 12, switch=16)
    assert [m.tokens for m in log.kinds(Rescaled)] == [17]
    assert device_of(engine).taken == 11 - 1


@pytest.mark.parametrize("backend", LATE)
def test_what_is_drawn_after_the_end_is_dropped_and_its_blocks_stay_until_then(
    backend: str,
) -> None:
    out = greedy([5, 6, 7, 8], 9)
    eos = (EosToken(id=out[2], text="", origins=("x",)),)
    at = out.index(out[2])
    engine = make_engine(backend=backend, tokens=32, block_size=4, prefix_cache=False)
    log = Log(engine)
    engine.submit(ask("a", [5, 6, 7, 8], 9, eos=eos))
    while "a" not in log.finished:
        log.step()
    assert log.tokens["a"] == out[: at + 1]
    assert log.finished["a"].usage.output_tokens == at + 1
    assert engine.pool.usage().used == 2  # a step still runs that writes there
    assert not engine.idle
    engine.submit(ask("b", list(range(4, 28)), 4))  # needs all that is left, and more
    log.drain()
    assert log.tokens["b"] == greedy(list(range(4, 28)), 4)
    assert log.tokens["a"] == out[: at + 1]


@pytest.mark.parametrize("backend", LATE)
def test_a_draw_in_flight_is_not_counted_for_the_next_in_its_slot(backend: str) -> None:
    """A cancelled request's last token comes when another one with penalties has its slot."""
    few = dict.fromkeys((3, 4, 5, 6), 50.0)  # all others are out of the question
    params = SamplingParams(
        temperature=0.0, max_tokens=14, frequency_penalty=1.5, logit_bias=few, ignore_eos=True
    )
    first = Submit(seq="a", prompt_ids=(5, 6), params=params)
    second = Submit(seq="b", prompt_ids=(9,), params=params)
    want = finish(make_engine(max_seqs=1), second).tokens["b"]
    for steps in range(1, 9):
        engine = make_engine(max_seqs=1, backend=backend)
        log = Log(engine)
        engine.submit(first)
        for _ in range(steps):
            log.step()
        engine.cancel(Cancel(seq="a"))
        engine.submit(second)
        log.drain()
        assert log.tokens["b"] == want, steps


@pytest.mark.parametrize("backend", LATE)
@pytest.mark.parametrize("early", [False, True], ids=["on the device", "before it is launched"])
def test_a_failure_while_another_step_runs(backend: str, early: bool) -> None:
    """The guilty request fails alone, and the others go on with the tokens they should have."""
    out = greedy([5, 6], 12)
    late = next(i for i, t in enumerate(out) if i > 3 and t not in out[:i] and t not in (5, 6, 8))
    prompts = [[8, i] for i in range(60) if out[late] not in [i, *greedy([8, i], 12)]]
    others = dict(zip("bcd", prompts, strict=False))
    model = FakeModel(fail_on=-1 if early else out[late])
    engine = make_engine(model, backend=backend)
    if early:
        launch = engine.runner.launch

        def refuse(plan: Any) -> Any:
            if any(c.seq.id == "bad" and c.end == 2 + late + 1 for c in plan.chunks):
                raise RuntimeError("refused")
            return launch(plan)

        engine.runner.launch = refuse  # type: ignore[method-assign]
    log = finish(
        engine,
        ask("bad", [5, 6], 12),
        *(ask(name, prompt, 12) for name, prompt in others.items()),
    )
    assert log.finished["bad"].stop.rule == "ERROR"
    assert log.tokens["bad"] == out[: late + 1]
    for name, prompt in others.items():
        assert log.tokens[name] == greedy(prompt, 12)
    assert {f.stop.rule for s, f in log.finished.items() if s != "bad"} == {"MAX_TOKENS"}


def test_the_last_of_a_failed_step_is_not_to_blame_for_those_that_have_ended() -> None:
    """A step of two fails after one of them has ended: the other one runs alone and goes on."""
    out = greedy([5, 6], 9)
    eos = (EosToken(id=out[2], text="", origins=("x",)),)
    assert out[2] not in out[:2]
    other = greedy([8, 9], 9)
    assert out[2] not in other
    model = FakeModel(fail_on=out[2])  # computed once it has been drawn: too late to matter
    engine = make_engine(model, backend="late")
    log = finish(engine, ask("a", [5, 6], 9, eos=eos), ask("b", [8, 9], 9))
    assert log.finished["a"].stop.rule == "EOS"
    assert log.tokens == {"a": out[:3], "b": other}


@pytest.mark.parametrize("backend", BACKENDS)
def test_logits_of_a_prompt_between_two_steps(backend: str) -> None:
    """The step that runs is collected first: its log-probabilities are computed from its logits."""
    engine = make_engine(backend=backend, token_budget=7)
    run, asked, ids = Run(engine), ask("a", [5, 6], 9, logprobs=2), list(range(4, 20))
    run.submit(asked)
    for _ in range(3):
        run.step()
    logits = prompt_logits(engine, ids)
    for n, row in enumerate(logits, 1):
        assert row.tolist() == next_logits(expected(ids[:n], FULL)).tolist()
    run.end()
    one = Run(make_engine(backend="now"))
    one.submit(asked)
    one.end()
    assert run.answers == one.answers


def test_log_probabilities_are_of_the_right_step() -> None:
    """Those of a step are computed when the next one has begun, prompts scored in between."""
    requests = [
        ask("a", [5, 6], 8, logprobs=3),
        ask("b", list(range(4, 30)), 2, logprobs=1, prompt_logprobs=True),
        ask("c", [9], 8, logprobs=2),
    ]
    found = []
    for backend in BACKENDS:
        run = Run(make_engine(backend=backend, token_budget=7))
        for request in requests:
            run.submit(request)
        run.end()
        found.append(run.answers)
    assert found[0] == found[1] == found[2]
    assert [len(found[0]["a"].logprobs), len(found[0]["b"].scores)] == [8, 26]
