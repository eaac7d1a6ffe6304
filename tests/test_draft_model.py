"""A draft model changes when tokens come, and nothing else that a request is told.

As in tests/test_speculation.py, whose random requests and comparisons these are.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import rbee_worker
from rbee_worker.engine.draft_model import DraftModel
from rbee_worker.library import Model
from rbee_worker.types import Request
from tests import tiny
from tests.drafting import cheap, noisy
from tests.test_constraints import held
from tests.test_speculation import BACKENDS, KINDS, PENALTIES, ROOMY, TIGHT, alone, asked, run


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Targets by kind, and a draft model for each, which has the other kind of attention."""
    folder = tmp_path_factory.mktemp("draft")
    found = {
        kind: tiny.write_safetensors(folder / kind, **config) for kind, config in KINDS.items()
    }
    found["draft for whole"] = noisy(found["windowed"], folder / "a")
    found["draft for windowed"] = noisy(found["whole"], folder / "b")
    return found


@pytest.fixture(autouse=True)
def costs(monkeypatch: pytest.MonkeyPatch) -> None:
    cheap(monkeypatch)


def load(paths: dict[str, Path], kind: str, backend: str, **options: Any) -> Model:
    return rbee_worker.load(
        str(paths[kind]),
        backend=backend,
        threads=1,
        draft_model=str(paths[f"draft for {kind}"]),
        generation_config=False,
        **options,
    )


def drafter_of(model: Model) -> DraftModel:
    drafts = model._running()._drafts
    assert isinstance(drafts, DraftModel)
    return drafts


def nothing_is_left(model: Model) -> None:
    """The draft model has no sequence any more, and every block is accounted for."""
    drafts = drafter_of(model)
    assert not drafts._shadows
    drafts._pool.check()
    assert drafts._pool.usage().used == 0


def compare(paths: dict[str, Path], kind: str, backend: str, seeds: range) -> Counter[str]:
    """Each of these requests without a draft model alone, and with one alone and in batches."""
    seen: Counter[str] = Counter()
    requests = [asked(seed) for seed in seeds]
    off = alone(paths[kind], backend, "off", requests)
    with load(paths, kind, backend, **ROOMY) as model:
        assert model.info.speculate == "draft"
        for seed, request, one in zip(seeds, requests, off, strict=True):
            [told] = run(model, [request])
            assert told.same() == one.same(), seed
            seen["tokens"] += len(told.ids)
            seen["drafted"] += told.drafts[0]
            seen["accepted"] += told.drafts[1]
            seen["accepted, sampled"] += told.drafts[1] * (request.params["temperature"] > 0)
            if PENALTIES & request.params.keys():
                seen["accepted beside penalties"] += told.drafts[1]
        nothing_is_left(model)
        seen["steps saved"] = off[-1].steps - model._running().stats().steps
    for options in (ROOMY, TIGHT):
        with load(paths, kind, backend, **options) as model:
            dice, left = random.Random(seeds.start), list(range(len(requests)))
            dice.shuffle(left)
            while left:
                size = dice.randint(2, 8)
                part, left = left[:size], left[size:]
                for n, got in zip(part, run(model, [requests[n] for n in part]), strict=True):
                    assert got.same(cached=False) == off[n].same(cached=False), (seeds[n], options)
                    seen["preempted"] += got.preempted
                    seen["drafted in a batch"] += got.drafts[0]
            nothing_is_left(model)
    least = {  # for each request; otherwise too little of what this is about has happened
        "drafted": 3,
        "accepted": 2,
        "accepted, sampled": 0.5,
        "accepted beside penalties": 0.3,
        "steps saved": 1,
        "preempted": 0.03,
        "drafted in a batch": 1,
    }
    for name, n in least.items():
        assert seen[name] >= n * len(seeds), seen
    return seen


@pytest.mark.parametrize(
    ("kind", "backend"),
    [
        ("whole", "cpu"),
        ("windowed", "cpu"),
        pytest.param("whole", "reference", marks=pytest.mark.slow),
    ],
)
def test_a_request_is_told_the_same(paths: dict[str, Path], kind: str, backend: str) -> None:
    compare(paths, kind, backend, range(24))


@pytest.mark.parametrize("options", [ROOMY, TIGHT], ids=["roomy", "tight"])
def test_held_answers_are_the_same(paths: dict[str, Path], options: dict[str, int]) -> None:
    """Requests with a grammar: drafts keep to it, and save steps."""
    seeds = range(30, 44)
    requests = [held(seed)[0] for seed in seeds]
    off = alone(paths["whole"], "cpu", "off", requests)
    with load(paths, "whole", "cpu", **options) as model:
        told = run(model, requests)
        nothing_is_left(model)
    for seed, one, got in zip(seeds, off, told, strict=True):
        assert got.same(cached=False) == one.same(cached=False), seed
    accepted = sum(got.drafts[1] for got in told)
    assert accepted > 0.3 * sum(got.drafts[0] for got in told) > 0


@pytest.mark.long
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_requests_are_told_the_same(
    paths: dict[str, Path], kind: str, backend: str
) -> None:
    start = 3000 + 500 * list(KINDS).index(kind)
    compare(paths, kind, backend, range(start, start + 500))


def test_a_request_may_do_without(paths: dict[str, Path]) -> None:
    params = {"max_tokens": 40, "seed": 5, "temperature": 0, "ignore_eos": True}
    with load(paths, "whole", "cpu", **ROOMY) as model:
        told = []
        for given in ({}, {"speculation": False}):
            request = Request(id="", token_ids=(40, 41, 42), params=params | given)
            told += run(model, [request])
        assert told[0].ids == told[1].ids
        assert told[0].drafts[0] > 10
        assert told[1].drafts == (0, 0)
        stats = model._running().stats()
        assert (stats.drafted_tokens, stats.accepted_tokens) == told[0].drafts


def test_a_conversation_continues_from_what_the_draft_model_knows(paths: dict[str, Path]) -> None:
    """Each prompt is the one before, its answer and something new: the draft model computes only
    what is new."""
    params = {"max_tokens": 12, "temperature": 0, "ignore_eos": True}
    with load(paths, "whole", "cpu", ctx=256, kv_tokens=4096, token_budget=32) as model:
        computed: list[int] = []
        drafts = drafter_of(model)
        run_rows = drafts._run

        def counting(chunks: Any) -> Any:
            computed[-1] += sum(chunk.count for chunk in chunks)
            return run_rows(chunks)

        drafts._run = counting  # type: ignore[method-assign]
        prompt = tuple(random.Random(3).choices(range(32, 127), k=100))
        for turn in range(4):
            computed.append(0)
            [told] = run(model, [Request(id="", token_ids=prompt, params=params)])
            assert told.drafts[0] > 4
            prompt = (*prompt, *told.ids, 80 + turn)
        assert computed[0] > 100  # the prompt, at most 32 rows at once, and the drafts
        assert max(computed[1:]) < 80


def test_a_draft_model_that_fails_is_given_up(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    params = {"max_tokens": 30, "temperature": 0, "ignore_eos": True}
    request = Request(id="", token_ids=(40, 41, 42), params=params)
    [want] = alone(paths["whole"], "cpu", "off", [request])
    with load(paths, "whole", "cpu", **ROOMY) as model:
        drafts = drafter_of(model)

        def broken(*_: Any) -> Any:
            raise ValueError("out of order")

        monkeypatch.setattr(drafts, "_run", broken)
        [told] = run(model, [request])
    assert told.same() == want.same()
    assert told.drafts == (0, 0)
    assert "the draft model failed" in caplog.text
