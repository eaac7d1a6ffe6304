"""A draft model changes when tokens come, and nothing else that a request is told.

As in tests/test_speculation.py, whose random requests and comparisons these are.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import rbee_worker
from rbee_worker.config import Settings
from rbee_worker.engine.draft_model import DraftModel
from rbee_worker.library import Model
from rbee_worker.session.client import EngineClient
from rbee_worker.types import Event, Narration, Request, Started
from tests import drafted_alike, tiny
from tests.drafting import cheap, noisy
from tests.test_constraints import held
from tests.test_speculation import BACKENDS, KINDS, ROOMY, TIGHT, alone, run

FAILED = (
    "nothing is drafted any more: drafting failed: ValueError: out of order; answers are the same "
    "without drafts"
)


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
    drafts = model._running()._drafting.proposer
    assert isinstance(drafts, DraftModel)
    return drafts


def nothing_is_left(model: Model) -> None:
    """The draft model has no sequence any more, and every block is accounted for."""
    drafts = drafter_of(model)
    assert not drafts._shadows
    drafts._pool.check()
    assert drafts._pool.usage().used == 0


def compare(paths: dict[str, Path], kind: str, backend: str, seeds: range) -> Counter[str]:
    """See `drafted_alike.compare`."""
    return drafted_alike.compare(
        paths[kind],
        backend,
        seeds,
        load=partial(load, paths, kind, backend),
        speculate="draft",
        nothing_is_left=nothing_is_left,
    )


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
        again = {**params, "logit_bias": {"65": 100}}  # what could be found in its own tokens
        [later] = run(model, [Request(id="", token_ids=(65,) * 9, params=again)])
        assert (model.info.speculate, model.info.draft_model) == ("off", "")
        assert FAILED in model.info.notes
    assert told.same() == want.same()
    assert told.drafts == later.drafts == (0, 0)
    assert "drafting failed" in caplog.text


def test_a_client_tells_that_drafting_has_failed(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> Any:
        raise ValueError("out of order")

    monkeypatch.setattr(DraftModel, "_run", broken)
    params = {"max_tokens": 30, "temperature": 0, "ignore_eos": True}
    asked = [
        Request(id=str(on), token_ids=(40, 41, 42), params={**params, "speculation": on})
        for on in (True, False)
    ]

    async def main() -> list[Event]:
        draft = str(paths["draft for whole"])
        settings = Settings(
            model=str(paths["whole"]), backend="cpu", threads=1, draft_model=draft, **ROOMY
        )
        client = await EngineClient.start(settings, in_process=True)
        try:
            assert (await client.ready()).speculate == "draft"
            first = [event async for event in client.generate(asked[0])]
            assert client.info is not None
            assert (client.info.speculate, client.info.draft_model) == ("off", "")
            assert FAILED in client.info.notes
            second = [event async for event in client.generate(asked[1])]
            assert isinstance(second[0], Started)
            assert FAILED in second[0].warnings
            assert not [e for e in second if isinstance(e, Narration) and "drafted" in e.human]
            return first
        finally:
            await client.close()

    said = [e.human for e in asyncio.run(main()) if isinstance(e, Narration)]
    [human] = [human for human in said if "drafted" in human]
    why = "drafting failed: ValueError: out of order"
    assert human == f"Nothing is drafted any more ({why}); the answer is the same without drafts."
