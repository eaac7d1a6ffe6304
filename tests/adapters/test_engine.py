"""Sequences with adapters in an engine: the tokens, the prefixes that they share, loading between
steps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

import rbee_worker
from rbee_worker.adapter_spec import AdapterSpec
from rbee_worker.engine.messages import (
    AdapterLoaded,
    AdapterRefused,
    LoadAdapter,
    Output,
    Submit,
    Tokens,
    UnloadAdapter,
)
from rbee_worker.errors import AdapterError, UsageError
from rbee_worker.library import Model
from rbee_worker.session.answer import gathered
from rbee_worker.types import Request, SamplingParams
from tests import tiny
from tests.adapters.made import factors, places, write_peft

BACKENDS = ("cpu", "reference")
GREEDY = {"temperature": 0, "ignore_eos": True}
PROMPT = [5, 6, 7, 250, 3, 3, 9] * 7


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_safetensors(tmp_path_factory.mktemp("engine") / "tiny")


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    shapes = places(base)
    return {
        name: write_peft(base.parent / name, factors(shapes, rank, seed=rank))
        for name, rank in (("a", 3), ("b", 5))
    }


@pytest.fixture(scope="module", params=BACKENDS)
def model(base: Path, adapters: dict[str, Path], request: pytest.FixtureRequest) -> Iterator[Model]:
    lora = {name: str(path) for name, path in adapters.items()}
    with rbee_worker.load(str(base), backend=request.param, threads=1, lora=lora) as loaded:
        yield loaded


def submit(seq: str, key: str, *, tokens: int = 8, prompt: list[int] = PROMPT) -> Submit:
    params = SamplingParams(max_tokens=tokens, temperature=0, ignore_eos=True)
    return Submit(seq=seq, prompt_ids=tuple(prompt), params=params, adapter=key)


def run(model: Model) -> dict[str, list[int]]:
    """Step until nothing is left; the tokens of each sequence."""
    found: dict[str, list[int]] = {}
    engine = model._running()
    while not engine.idle:
        for m in engine.step():
            if isinstance(m, Tokens):
                found.setdefault(m.seq, []).extend(m.ids)
    return found


def told(model: Model) -> list[Output]:
    return model._running().step()


def test_greedy_answers_are_those_of_merged_weights(
    model: Model, base: Path, adapters: dict[str, Path]
) -> None:
    shapes = places(base)
    for name, rank in (("a", 3), ("b", 5)):
        oracle = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
        weights = dict(oracle.named_parameters())
        with torch.no_grad():
            for module, (a, b) in factors(shapes, rank, seed=rank).items():
                weights[f"{module}.weight"] += 2.0 * torch.from_numpy(b @ a)
            want = oracle.generate(
                torch.tensor([PROMPT]), max_new_tokens=12, do_sample=False, eos_token_id=None
            )
        answer = model.generate(PROMPT, max_tokens=12, adapter=name, **GREEDY)
        assert list(answer.token_ids) == want[0, len(PROMPT) :].tolist()


def test_a_prefix_is_shared_by_equal_adapters_only(model: Model) -> None:
    prompt = [9, 8, 7, 6] * 20

    def cached(adapter: str) -> int:
        answer = model.generate(prompt, max_tokens=2, adapter=adapter, **GREEDY)
        return answer.usage.cached_tokens

    assert [cached(name) for name in ("", "a", "b")] == [0, 0, 0]
    assert [cached(name) for name in ("", "a", "b")] == [64, 64, 64]


def test_vectors_and_names(model: Model) -> None:
    plain, adapted = model.embed([[5, 6, 7]]), model.embed([[5, 6, 7]], adapter="a")
    assert not np.array_equal(plain, adapted)
    assert np.array_equal(plain, model.embed([[5, 6, 7]]))
    with pytest.raises(UsageError, match="there is no adapter 'c'"):
        model.generate("x", adapter="c")
    assert {info.name: info.rank for info in model.info.adapters} == {"a": 3, "b": 5}


def test_a_constraint_holds_with_an_adapter(model: Model) -> None:
    """Masks are one thing and adapters another: together they give what each alone would."""
    given = {"regex": "[0-9]{6}", "temperature": 0, "max_tokens": 12}
    alone = [model.generate(PROMPT, adapter=name, **given) for name in ("", "a", "b")]
    for answer in alone:
        assert re.fullmatch("[0-9]{6}", answer.text), answer.text
    streams = [
        model.events(Request(id=name, token_ids=tuple(PROMPT), params=given, adapter=name))
        for name in ("", "a", "b")
    ]
    for want, events in zip(alone, streams, strict=True):
        assert gathered(events).token_ids == want.token_ids
    assert len({answer.token_ids for answer in alone}) > 1


def test_mixed_steps_preempted_and_chunked(base: Path, adapters: dict[str, Path]) -> None:
    """The same tokens alone, together in little memory, in small steps, with drafts."""
    lora = {name: str(path) for name, path in adapters.items()}
    prompts = {f"{n}": [n + 3, 40, 41, 42] * (3 + n % 2) for n in range(6)}
    want: dict[str, list[int]] | None = None
    for more in (
        {},
        {"kv_tokens": 192, "ctx": 128, "token_budget": 16},
        {"speculate": "ngram", "token_budget": 24},
        {"draft_model": str(base), "token_budget": 24},
        {"kv_cache": False, "ctx": 128},
    ):
        with rbee_worker.load(str(base), backend="cpu", threads=1, lora=lora, **more) as model:
            keys = ["", *(info.key for info in model.info.adapters)]
            engine = model._running()
            for n, (seq, prompt) in enumerate(prompts.items()):
                engine.submit(submit(seq, keys[n % 3], tokens=44, prompt=prompt))
            found = run(model)
            preempted = engine.stats().preemptions
            engine.pool.check()
        want = want or found
        assert found == want, more
        assert (preempted > 0) == ("kv_tokens" in more)
    assert want is not None
    assert len({tuple(ids) for ids in want.values()}) == len(want)


def test_another_adapter_under_an_old_name(base: Path, adapters: dict[str, Path]) -> None:
    """Loaded and unloaded between steps: a prefix belongs to contents, never to a name."""
    with rbee_worker.load(
        str(base), backend="cpu", threads=1, lora={"x": str(adapters["a"])}
    ) as model:
        engine = model._running()
        (first,) = model.info.adapters
        engine.submit(submit("1", first.key))
        engine.unload_adapter(UnloadAdapter(key="nothing"))
        before = run(model)["1"]
        engine.unload_adapter(UnloadAdapter(key=first.key))
        engine.load_adapter(LoadAdapter(spec=AdapterSpec(name="x", ref=str(adapters["b"]))))
        (answer,) = (m for m in told(model) if isinstance(m, AdapterLoaded))
        assert answer.info.key != first.key
        engine.submit(submit("2", answer.info.key))
        started = told(model)
        assert [m.cached for m in started if hasattr(m, "cached")] == [0]
        after = run(model).get("2", [])
        assert after
        assert after[-6:] != before[-6:]
        engine.submit(submit("3", first.key))  # a key that is loaded no longer
        (end,) = (m for m in told(model) if hasattr(m, "stop"))
        assert end.error == "its adapter is not loaded any more."
        engine.unload_adapter(UnloadAdapter(key=answer.info.key))
        engine.load_adapter(LoadAdapter(spec=AdapterSpec(name="y", ref=str(adapters["a"]))))
        (again,) = (m for m in told(model) if isinstance(m, AdapterLoaded))
        assert again.info.key == first.key
        engine.submit(submit("4", again.info.key))
        assert run(model)["4"] == before


def test_unloading_ends_what_still_uses_it(base: Path, adapters: dict[str, Path]) -> None:
    lora = {name: str(path) for name, path in adapters.items()}
    with rbee_worker.load(str(base), backend="cpu", threads=1, lora=lora) as model:
        engine = model._running()
        a, b = model.info.adapters
        engine.submit(submit("a", a.key))
        engine.submit(submit("b", b.key))
        told(model)
        engine.unload_adapter(UnloadAdapter(key=a.key))
        (end,) = (m for m in told(model) if getattr(m, "seq", "") == "a" and hasattr(m, "stop"))
        assert end.error == "its adapter was unloaded."
        assert len(run(model)["b"]) >= 6


def test_what_cannot_be_loaded(base: Path, adapters: dict[str, Path], tmp_path: Path) -> None:
    def load(model: Model, name: str, ref: str) -> Output:
        model._running().load_adapter(LoadAdapter(spec=AdapterSpec(name=name, ref=ref)))
        (answer,) = told(model)[:1]
        return answer

    lora = {"a": str(adapters["a"])}
    with rbee_worker.load(str(base), backend="cpu", threads=1, lora=lora) as model:
        full = load(model, "b", str(adapters["b"]))
        assert isinstance(full, AdapterRefused)
        assert "all 1 places for adapters are taken" in full.message
        twin = load(model, "twin", str(adapters["a"]))  # equal contents share a place
        assert isinstance(twin, AdapterLoaded)
        assert twin.info.key == model.info.adapters[0].key
        gone = load(model, "c", str(tmp_path / "gone"))
        assert isinstance(gone, AdapterRefused)
        assert gone.code == "BAD_ADAPTER"
    with rbee_worker.load(str(base), backend="cpu", threads=1) as model:
        none = load(model, "a", str(adapters["a"]))
        assert isinstance(none, AdapterRefused)
        assert "--lora-slots" in none.message
    with pytest.raises(AdapterError, match="more than --lora-rank"):
        rbee_worker.load(str(base), backend="cpu", threads=1, lora=lora, lora_rank=2)
