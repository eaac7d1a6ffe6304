"""A model's own layer for further tokens: what it computes, and that drafts change nothing else.

As in tests/test_speculation.py, whose random requests and comparisons these are.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import rbee_worker
from rbee_worker.checkpoint import open_checkpoint
from rbee_worker.cli.inspect import rows as shown
from rbee_worker.cli.report import report
from rbee_worker.config import Settings
from rbee_worker.engine.draft_costs import Ratios
from rbee_worker.engine.mtp import MtpDrafts
from rbee_worker.errors import UsageError
from rbee_worker.library import Model
from rbee_worker.loading.planned import Preflight
from rbee_worker.loading.preflight import preflight
from rbee_worker.models import build_model
from rbee_worker.ops.backends import backend as backend_of
from rbee_worker.types import Request
from tests import drafted_alike, further, tiny
from tests.drafting import cheap
from tests.driver import Driver
from tests.test_constraints import held
from tests.test_speculation import ROOMY, TIGHT, Told, alone, run

MODELS = {"deepseek": further.deepseek, "glm": further.glm, "qwen": further.qwen}


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Models whose layer is often right."""
    folder = tmp_path_factory.mktemp("mtp")
    return {name: make(right=1.0).save(folder / name) for name, make in MODELS.items()}


def load(path: Path, backend: str, **options: Any) -> Model:
    return rbee_worker.load(
        str(path),
        backend=backend,
        threads=1,
        speculate="mtp",
        generation_config=False,
        **options,
    )


def nothing_is_left(model: Model) -> None:
    engine = model._running()
    assert isinstance(engine._drafting.proposer, MtpDrafts)
    assert not engine._drafting.proposer._last
    engine.pool.check()
    assert engine.pool.usage().used == 0


def executable(path: Path, backend: str) -> tuple[Any, Driver]:
    settings = Settings(model=str(path), backend=backend, threads=1, speculate="mtp")
    used = backend_of(backend)
    ops = used.ops(settings, "f32", weight_bytes=1 << 24, progress=lambda *_: None)
    model = build_model(open_checkpoint(str(path)), ops)
    found: Any = used.executable(model, settings, kv_dtype="f32", longest=256)
    return found, Driver(found)


def distance(got: Any, want: torch.Tensor) -> float:
    return float((torch.as_tensor(np.asarray(got)).double() - want).norm() / want.norm())


@pytest.mark.parametrize("backend", ["cpu", pytest.param("reference", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", MODELS)
def test_the_layer_computes_what_the_paper_says(tmp_path: Path, name: str, backend: str) -> None:
    """Rows of the model's hidden states in parts, then three rows of its own, beside another
    sequence; each is what the formula gives for all rows at once."""
    oracle = MODELS[name]()
    model, driver = executable(oracle.save(tmp_path / "m"), backend)
    dice = random.Random(5)
    told = [dice.choices(range(32, 127), k=n) for n in (41, 23)]
    sequences = [driver.start(tokens) for tokens in told]
    hidden: list[list[Any]] = [[], []]
    for part in ([20, 9], [21, 14]):
        counts = list(zip(sequences, part, strict=True))
        found = model.host(model.hidden(driver.batch(counts))).copy()
        for n, rows in enumerate(np.split(found, part[:1])):
            hidden[n].append(rows)
            sequences[n].computed += part[n]
    exact = [oracle.hidden(tokens) for tokens in told]
    both = [np.concatenate(parts) for parts in hidden]
    for rows, want in zip(both, exact, strict=True):
        assert distance(rows, want) < 2e-5
    for sequence, tokens in zip(sequences, told, strict=True):
        sequence.computed, sequence.tokens = 0, tokens[1:]  # row i gets token i + 1
    made = []
    for part in ([17, 1], [1, 21], [22, 0]):
        counts = [(s, n) for s, n in zip(sequences, part, strict=True) if n]
        given = np.concatenate([both[sequences.index(s)][s.computed :][:n] for s, n in counts])
        found = model.host(model.mtp_hidden(given, driver.batch(counts))).copy()
        made.append(np.split(found, [part[0]]))
        for s, n in counts:
            s.computed += n
    for n, tokens in enumerate(told):
        got = np.concatenate([parts[n] for parts in made])
        want = oracle.rows(exact[n][:-1], tokens[1:])
        assert distance(got, want) < 5e-5
        assert distance(model.host(model.mtp_head(got)), oracle.logits(want)) < 5e-5
    # one token further, and one more: the layer gets its own row
    first, states, tokens = sequences[0], exact[0][:-1], list(told[0])
    row, want = np.concatenate([parts[0] for parts in made])[-1:], oracle.rows(states, tokens[1:])
    for token in (70, 71, 72):
        first.tokens.append(token)
        tokens.append(token)
        row = model.host(model.mtp_hidden(row, driver.batch([(first, 1)]))).copy()
        first.computed += 1
        states = torch.cat([states, want[-1:]])
        want = oracle.rows(states, tokens[1:])
        assert distance(row, want[-1:]) < 1e-4
        assert distance(model.host(model.mtp_head(row)), oracle.logits(want)[-1:]) < 1e-4


def compare(path: Path, backend: str, seeds: range) -> Counter[str]:
    """See `drafted_alike.compare`."""
    return drafted_alike.compare(
        path,
        backend,
        seeds,
        load=partial(load, path, backend),
        speculate="mtp",
        nothing_is_left=nothing_is_left,
    )


@pytest.mark.parametrize("name", ["deepseek", "qwen"])
def test_a_request_is_told_the_same(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    cheap(monkeypatch)
    compare(paths[name], "cpu", range(10))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"), [("glm", "cpu"), ("deepseek", "reference"), ("qwen", "reference")]
)
def test_more_of_them_are(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str, backend: str
) -> None:
    cheap(monkeypatch)
    compare(paths[name], backend, range(10, 20))


@pytest.mark.long
@pytest.mark.parametrize("name", MODELS)
def test_a_thousand_requests_are_told_the_same(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    cheap(monkeypatch)
    start = 5000 + 340 * list(MODELS).index(name)
    compare(paths[name], "cpu", range(start, start + 340))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deepseek", "qwen"])
def test_held_answers_are_the_same(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Requests with a grammar: drafts keep to it."""
    cheap(monkeypatch)
    seeds = range(30, 38)
    requests = [held(seed)[0] for seed in seeds]
    off = alone(paths[name], "cpu", "off", requests)
    with load(paths[name], "cpu", **TIGHT) as model:
        told = run(model, requests)
        nothing_is_left(model)
    for seed, one, got in zip(seeds, off, told, strict=True):
        assert got.same(cached=False) == one.same(cached=False), seed
    assert sum(got.drafts[0] for got in told) > 0


@pytest.mark.parametrize("name", ["glm", "qwen"])
def test_a_conversation_continues_from_what_the_layer_knows(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Each prompt is the one before, its answer and something new. Rejected drafts are never found
    in the cache, and as much is found again as without drafts."""
    cheap(monkeypatch)
    params = {"max_tokens": 21, "ignore_eos": True, "temperature": 0.9, "logprobs": 2}
    found: dict[str, list[Told]] = {}
    for speculate in ("off", "mtp"):
        with rbee_worker.load(
            str(paths[name]), backend="cpu", threads=1, speculate=speculate, kv_tokens=4096
        ) as model:
            prompt = tuple(random.Random(3).choices(range(32, 127), k=70))
            for turn in range(7):
                request = Request(id="", token_ids=prompt, params=params | {"seed": turn})
                [told] = run(model, [request])
                found.setdefault(speculate, []).append(told)
                prompt = (*prompt, *told.ids, 80 + turn)
    for on, off in zip(found["mtp"], found["off"], strict=True):
        assert on.same() == off.same()
    drafted, accepted = map(sum, zip(*(told.drafts for told in found["mtp"]), strict=True))
    assert drafted > accepted > 20


def test_a_request_may_do_without(paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """And what it leaves in the cache serves one that does not."""
    cheap(monkeypatch)
    params = {"max_tokens": 40, "seed": 5, "temperature": 0, "ignore_eos": True}
    with load(paths["deepseek"], "cpu", **ROOMY) as model:
        told = []
        for given in ({"speculation": False}, {}):
            request = Request(id="", token_ids=tuple(range(40, 80)), params=params | given)
            told += run(model, [request])
        assert told[0].ids == told[1].ids
        assert told[0].drafts == (0, 0)
        assert told[1].usage[2] == 32  # cached tokens
        assert told[1].drafts[1] > 10
        stats = model._running().stats()
        assert (stats.drafted_tokens, stats.accepted_tokens) == told[1].drafts


def test_what_cannot_pay_is_not_drafted(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cheap(monkeypatch, Ratios(row=0.6, draft=0.6))
    params = {"max_tokens": 40, "temperature": 0, "ignore_eos": True}
    with load(paths["deepseek"], "cpu", **ROOMY) as model:
        [told] = run(model, [Request(id="", token_ids=(40, 41, 42), params=params)])
    assert told.drafts == (0, 0)


def test_a_layer_that_fails_is_given_up(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cheap(monkeypatch)
    request = Request(
        id="",
        token_ids=(40, 41, 42),
        params={"max_tokens": 30, "temperature": 0, "ignore_eos": True},
    )
    for name in ("deepseek", "qwen"):
        [want] = alone(paths[name], "cpu", "off", [request])
        with load(paths[name], "cpu", **ROOMY) as model:
            engine = model._running()
            drafts = engine._drafting.proposer
            assert isinstance(drafts, MtpDrafts)
            guess, calls = drafts._guess, iter(range(9))

            def broken(*given: Any, guess: Any = guess, calls: Any = calls) -> Any:
                if next(calls) == 4:
                    raise ValueError("out of order")
                return guess(*given)

            monkeypatch.setattr(drafts, "_guess", broken)
            [told] = run(model, [request])
            again = {**request.params, "logit_bias": {"65": 100}}
            [later] = run(model, [Request(id="", token_ids=(65,) * 9, params=again)])
            assert later.drafts == (0, 0)  # though there is much to find in its own tokens
            engine.pool.check()
            assert engine.pool.usage().used == 0
        assert told.same() == want.same()
        assert "drafting failed" in caplog.text
        caplog.clear()


def planned(path: Path, **more: Any) -> Preflight:
    settings = Settings(model=str(path), backend="cpu", speculate="mtp", **more)
    return preflight(open_checkpoint(settings.model), settings)


def test_its_weights_and_cache_are_planned_with_the_model(paths: dict[str, Path]) -> None:
    found = report(Settings(model=str(paths["glm"]), backend="cpu", speculate="mtp"))
    plain = report(Settings(model=str(paths["glm"]), backend="cpu"))
    memory, without = found["memory"], plain["memory"]
    assert memory["weights"] - without["weights"] == memory["mtp"] > 0
    # a key and a value of two heads of 16 numbers
    assert memory["mtp_kv_per_token"] == 2 * 2 * 16 * 4
    assert memory["kv_per_token"] * 2 == without["kv_per_token"] * 3
    assert [text for _, text in shown(found) if "for drafts (MTP)" in text]
    assert without["mtp"] == without["mtp_kv_per_token"] == 0
    assert "--speculate mtp" in plain["skipped"]["model.layers.2.eh_proj.weight"]
    assert {*found["skipped"]} >= {"model.layers.2.shared_head.head.weight"}
    assert "model.layers.2.eh_proj.weight" not in found["skipped"]
    with load(paths["glm"], "cpu", kv_tokens=1024) as model:
        room = planned(paths["glm"], kv_tokens=1024).room(model.settings, 1 << 30)
        assert model.info.kv_bytes == room.nbytes
        assert model.info.weight_bytes == memory["weights"]


def test_a_model_without_the_layer_is_refused(tmp_path: Path) -> None:
    path = tiny.write_safetensors(tmp_path / "tiny")
    with pytest.raises(UsageError, match="has no layer that predicts further tokens") as caught:
        planned(path)
    assert "\n" not in str(caught.value)


def test_beside_a_draft_model_it_is_refused(paths: dict[str, Path]) -> None:
    with pytest.raises(UsageError, match="both draft tokens"):
        planned(paths["glm"], draft_model=str(paths["glm"]))


def test_the_gpu_backend_refuses_it_by_name() -> None:
    refusal = backend_of("cuda").refuses(Settings(backend="cuda", speculate="mtp"))
    assert refusal is not None
    assert refusal.why.startswith("--speculate mtp")


def test_a_gguf_file_gives_the_same_bits(tmp_path: Path) -> None:
    """As llama.cpp's converter writes GLM-4.5: a block more than layers, `nextn` in its names."""
    oracle = further.glm()
    directory = oracle.save(tmp_path / "m")
    file = further.write_gguf(oracle, tmp_path / "m.gguf", directory)
    answers = []
    for path in (directory, file):
        model, driver = executable(path, "reference")
        tokens = driver.start(list(range(40, 60)))
        batch = driver.batch([(tokens, 20)])
        hidden = model.host(model.hidden(batch)).copy()
        found = model.host(model.mtp_hidden(hidden, batch)).copy()
        answers.append(np.concatenate([hidden, found, model.host(model.mtp_head(found))], axis=1))
    assert np.array_equal(answers[0], answers[1])
