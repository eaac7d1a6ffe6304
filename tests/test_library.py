"""`rbee_worker.load`: a model in five lines; the same tokens as the commands give."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

import rbee_worker
from rbee_worker.errors import InvalidRequest, NotReady, UsageError, WorkerError
from rbee_worker.library import Model
from tests import tiny

ROOT = Path(__file__).parents[1]
BACKENDS = ("cpu", "reference")


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.write_safetensors(tmp_path_factory.mktemp("library") / "tiny")


@pytest.fixture(scope="module", params=BACKENDS)
def model(path: Path, request: pytest.FixtureRequest) -> Iterator[Model]:
    with rbee_worker.load(str(path), backend=request.param, threads=1) as loaded:
        yield loaded


def test_logits_equal_transformers(model: Model, path: Path) -> None:
    ids = [5, 6, 7, 250, 3, 3, 9] * 5
    oracle = LlamaForCausalLM.from_pretrained(path, dtype=torch.float32)
    with torch.inference_mode():
        want = oracle(torch.tensor([ids])).logits[0].numpy()
    got = model.logits(ids)
    assert got.shape == want.shape
    assert got.dtype == np.float32
    assert np.abs(got - want).max() < 1e-4 * np.abs(want).max()
    assert np.array_equal(model.logits(ids), got)  # and again: nothing is left behind
    assert np.abs(model.logits(ids[:9]) - want[:9]).max() < 1e-4 * np.abs(want).max()


def test_greedy_is_the_likeliest_token_of_the_logits(model: Model) -> None:
    answer = model.generate([5, 6, 7], max_tokens=6, temperature=0, ignore_eos=True)
    ids = [5, 6, 7]
    for token in answer.token_ids:
        assert token == int(model.logits(ids)[-1].argmax())
        ids.append(token)
    assert answer.stop.rule == "MAX_TOKENS"
    assert answer.usage.output_tokens == 6


def test_a_stream_is_the_answer_in_pieces(model: Model) -> None:
    params = {"max_tokens": 12, "seed": 3, "ignore_eos": True}
    whole = model.generate("hello", **params)
    assert "".join(model.stream("hello", **params)) == whole.text == str(whole)
    assert whole.seed == 3


def test_together_is_as_one_by_one(model: Model) -> None:
    prompts = ["hello", [5, 6, 7], "a longer prompt than the others", [9]]
    params = {"max_tokens": 9, "temperature": 0.8, "seed": 11, "ignore_eos": True}
    together = model.generate_all(prompts, **params)
    alone = [model.generate(prompt, **params) for prompt in prompts]
    assert [a.token_ids for a in together] == [a.token_ids for a in alone]


def test_a_stream_that_is_left_ends_its_request(model: Model) -> None:
    for text in model.stream("hello", max_tokens=200, ignore_eos=True):
        assert text
        break
    assert model.generate("hello", max_tokens=1).usage.output_tokens == 1
    assert not model._live


def test_stop_strings_end_an_answer(model: Model) -> None:
    whole = model.generate("hello", max_tokens=30, temperature=0, ignore_eos=True).text
    stop = whole[len(whole) // 2 :][:2]
    answer = model.generate("hello", max_tokens=30, temperature=0, ignore_eos=True, stop=[stop])
    assert answer.stop.rule == "STOP_SEQUENCE"
    assert answer.text == whole[: whole.index(stop)]


def test_logprobs(model: Model) -> None:
    answer = model.generate([5, 6], max_tokens=2, temperature=0, logprobs=2, ignore_eos=True)
    assert answer.logprobs is not None
    logits = model.logits([5, 6])[-1].astype(np.float64)
    want = logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()
    assert answer.logprobs[0].logprob == pytest.approx(want.max(), abs=1e-6)
    assert [i for i, _ in answer.logprobs[0].top] == list(np.argsort(-want, kind="stable")[:2])


def test_wrong_parameters_are_named(model: Model) -> None:
    with pytest.raises(InvalidRequest, match="temperature"):
        model.generate("hello", temperature=-1)
    with pytest.raises(InvalidRequest, match="temprature"):
        model.generate("hello", temprature=0)


@pytest.mark.parametrize("ids", [[], [-1], [1 << 40]])
def test_wrong_ids_are_named(model: Model, ids: list[int]) -> None:
    with pytest.raises(UsageError, match="logits"):
        model.logits(ids)


def test_wrong_options_are_named(path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean threads"):
        rbee_worker.load(str(path), thread=1)
    with pytest.raises(UsageError, match="port"):
        rbee_worker.load(str(path), port=1)
    with pytest.raises(UsageError, match="dtype"):
        rbee_worker.load(str(path), dtype="f64")


def test_a_closed_model_says_so(path: Path) -> None:
    model = rbee_worker.load(str(path), threads=1)
    model.close()
    model.close()
    with pytest.raises(NotReady, match="closed"):
        model.generate("hello")
    with pytest.raises(WorkerError, match="closed"):
        model.logits([1])


def test_it_says_what_it_is(model: Model) -> None:
    assert model.info.backend in repr(model)
    ids = model.tokenizer.encode("hello")
    assert model.tokenizer.decode(ids) == "hello"


def test_the_command_gives_the_same_tokens(path: Path) -> None:
    words = (
        "generate",
        "--model",
        str(path),
        "--json",
        "--seed",
        "5",
        "--max-tokens",
        "8",
        "hello",
    )
    done = subprocess.run(
        [sys.executable, "-m", "rbee_worker", *words], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with rbee_worker.load(str(path)) as model:
        assert model.generate("hello", seed=5, max_tokens=8).text == json.loads(done.stdout)["text"]
