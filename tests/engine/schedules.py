"""Requests in random schedules of a real engine, held against what each of them gets alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import (
    Cancel,
    Finished,
    Preempted,
    PromptScores,
    Scheduled,
    Submit,
    Tokens,
)

MakeEngine = Callable[[int, int], Engine]  # (blocks of the pool, token budget)


@dataclass
class Answer:
    """What a request was told, the prompt's scores included."""

    ids: list[int] = field(default_factory=list)
    logprobs: list[Any] = field(default_factory=list)
    scores: list[Any] = field(default_factory=list)
    rule: str = ""


class Run:
    """An engine, its answers, and how often what a test is about has happened."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.answers: dict[str, Answer] = {}
        self.seen: Counter[str] = Counter()

    def submit(self, request: Submit) -> None:
        self.answers[request.seq] = Answer()
        self.engine.submit(request)

    def step(self) -> None:
        self.seen["shared steps"] += len(self.engine.scheduler.running) > 1
        for out in self.engine.step():
            if isinstance(out, Tokens):
                self.answers[out.seq].ids += out.ids
                self.answers[out.seq].logprobs += out.logprobs or ()
            elif isinstance(out, PromptScores):
                self.answers[out.seq].scores += out.logprobs
            elif isinstance(out, Preempted):
                self.seen["preempted"] += 1
            elif isinstance(out, Scheduled):
                self.seen["cached"] += out.cached
            elif isinstance(out, Finished):
                assert out.error is None
                self.answers[out.seq].rule = out.stop.rule

    def end(self) -> None:
        while not self.engine.idle:
            self.step()
        self.engine.pool.check()
        assert self.engine.pool.usage().used == 0


def each_alone(make: MakeEngine, requests: Sequence[Submit], blocks: int) -> dict[str, Answer]:
    """Each request in an engine of its own, its prompt in steps as large as they get."""
    found = {}
    for request in requests:
        run = Run(make(blocks, 64))
        run.submit(request)
        run.end()
        found |= run.answers
    return found


def random_schedule(
    make: MakeEngine,
    requests: Sequence[Submit],
    want: dict[str, Answer],
    blocks: Sequence[int],
    seed: int,
) -> Counter[str]:
    """One schedule: some of the requests arrive at random, some twice, some with tokens they had
    before, some are cancelled. Every answer must be `want`'s, bit for bit. blocks: sizes of the
    pool to choose from."""
    rng = random.Random(seed)
    run = Run(make(rng.choice(blocks), rng.choice([7, 16, 33, 64])))
    members = rng.choices(requests, k=rng.randint(4, 9))  # some twice: the second is in the cache
    given: dict[str, tuple[Submit, int]] = {}  # as what it runs -> itself, tokens it had before
    for n, request in enumerate(members):
        done = want[request.seq].ids
        had = rng.randrange(len(done)) if rng.random() < 0.2 else 0
        given[f"{request.seq}-{n}"] = request, had
    waiting = list(given)
    while waiting or not run.engine.idle:
        for _ in range(min(rng.choice([0, 1, 2, 5]), len(waiting))):
            name = waiting.pop()
            request, had = given[name]
            had_ids = tuple(want[request.seq].ids[:had])
            run.submit(structs.replace(request, seq=name, output_ids=had_ids))
        if rng.random() < 0.03 and run.answers:
            run.engine.cancel(Cancel(seq=rng.choice(list(run.answers))))
        run.step()
    run.end()
    for name, (request, had) in given.items():
        got, one = run.answers[name], want[request.seq]
        left = slice(had, had + len(got.ids) if got.rule == "CANCELLED" else None)
        run.seen["resumed"] += had > 0
        run.seen["compared"] += len(got.ids)
        assert got.ids == one.ids[left], name
        if one.logprobs:
            assert repr(got.logprobs) == repr(one.logprobs[left]), name
        if got.scores:  # a prompt in several steps may be cancelled between them
            told = len(got.scores) if got.rule == "CANCELLED" else None
            assert repr(got.scores) == repr(one.scores[:told]), name
        assert got.scores or not one.scores or got.rule == "CANCELLED"
    return run.seen
