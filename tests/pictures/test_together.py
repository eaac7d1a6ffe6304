"""Pictures together with what else a request may have: an adapter, a constraint, drafts, and an
engine that is killed while its answer streams."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import SmolVLMForConditionalGeneration

import rbee_worker
from rbee_worker.library import Model
from tests.adapters.made import factors, places, write_peft
from tests.pictures.making import data_url, drawn, reference, saved
from tests.pictures.whole import write_smolvlm
from tests.process.held import Hold, hold
from tests.server.spawned import Spawned
from tests.server.test_restart import engine_of

__all__ = ["hold"]

pytestmark = pytest.mark.slow

ASKED = "What is the difference?"
RENDERED = f"<|im_start|>User:<image>{ASKED}<end_of_utterance>\nAssistant:"
IMAGE = drawn(70, 40)
FILE = saved(IMAGE)
LIKE: dict[str, Any] = {"temperature": 0, "max_tokens": 14, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    return write_smolvlm(tmp_path_factory.mktemp("together"))


@pytest.fixture(scope="module")
def lora(folder: Path) -> dict[str, str]:
    pairs = factors(places(folder), 4, seed=4)
    # a PEFT directory has transformers' names of the modules
    theirs = {n.replace("model.layers.", "model.text_model.layers."): p for n, p in pairs.items()}
    return {"a": str(write_peft(folder / "adapter", theirs))}


@pytest.fixture(scope="module", params=["reference", "cpu"])
def model(folder: Path, lora: dict[str, str], request: Any) -> Iterator[Model]:
    more = {"dtype": "f32", "threads": 1, "lora": lora}
    with rbee_worker.load(str(folder), backend=request.param, **more) as loaded:
        yield loaded


def test_an_adapter_changes_the_text_model_of_transformers(
    folder: Path, lora: dict[str, str], model: Model
) -> None:
    hf: Any = SmolVLMForConditionalGeneration.from_pretrained(folder)
    weights = dict(hf.named_parameters())
    given = reference(folder, "idefics3")(
        text=RENDERED, images=[[IMAGE]], return_tensors="pt", add_special_tokens=False
    )
    answers = []
    for name in ("", "a"):
        with torch.inference_mode():
            out = hf.eval().generate(
                **given, max_new_tokens=LIKE["max_tokens"], do_sample=False, eos_token_id=None
            )
        want = out[0, given["input_ids"].shape[1] :].tolist()
        found = model.chat(ASKED, images=[FILE], adapter=name, **LIKE)
        assert list(found.token_ids) == want
        answers.append(want)
        with torch.no_grad():
            for module, (a, b) in factors(places(folder), 4, seed=4).items():
                at = module.replace("model.layers.", "model.text_model.layers.")
                weights[f"{at}.weight"] += 2.0 * torch.from_numpy(b @ a)
    assert answers[0] != answers[1]


def test_a_picture_is_cached_for_its_adapter_alone(model: Model) -> None:
    def cached(name: str, image: bytes) -> int:
        found = model.chat("And here?", images=[image], adapter=name, **LIKE)
        return found.usage.cached_tokens

    both = [saved(drawn(70, 40, seed)) for seed in (7, 8)]
    before = [cached(name, image) for name in ("", "a") for image in both]
    assert max(before) < 16  # what stands before a picture, at most
    again = [cached(name, image) for name in ("", "a") for image in both]
    assert min(again) > 64


def test_a_constraint_and_drafts_change_nothing_else(folder: Path, model: Model) -> None:
    """The same tokens with drafts as without, and the constraint holds."""
    asked: dict[str, Any] = {"images": [FILE], "temperature": 0.9, "seed": 5, "max_tokens": 40}
    cases: tuple[dict[str, Any], ...] = (
        {"regex": "[ab]{6}[0-9]{12}"},
        {"regex": "(yes|no)( yes| no){8}"},
        {},
    )
    want = [model.chat(ASKED, **asked, **more) for more in cases]
    for answer, more in zip(want, cases, strict=True):
        if more:
            assert re.fullmatch(more["regex"], answer.text), answer.text
    how: dict[str, Any] = {
        "backend": model.info.backend,
        "dtype": "f32",
        "threads": 1,
        "speculate": "ngram",
    }
    with rbee_worker.load(str(folder), **how) as drafting:
        for answer, more in zip(want, cases, strict=True):
            assert drafting.chat(ASKED, **asked, **more).token_ids == answer.token_ids


def test_a_killed_engine_goes_on_with_the_same_picture(folder: Path, hold: Hold) -> None:
    """While a chat streams over HTTP: the text is that of an undisturbed answer."""
    url = {"url": data_url(FILE)}
    parts = [{"type": "text", "text": ASKED}, {"type": "image_url", "image_url": url}]
    body = {
        "messages": [{"role": "user", "content": parts}],
        "stream": True,
        "max_tokens": 90,
        "temperature": 1.0,
        "seed": 3,
        "ignore_eos": True,
    }
    args = ("--model-ref", str(folder), "--backend", "cpu", "--threads", "1", "--local-mode")

    def streamed(worker: Spawned, kill: bool) -> tuple[str, str | None]:
        text, reason, killed = "", None, not kill
        if kill:
            hold.set()
        with worker.http.stream("POST", "/v1/chat/completions", json=body) as response:
            assert response.status_code == 200
            for line in response.iter_lines():
                data = line.removeprefix("data: ")
                if data == line or data == "[DONE]":
                    continue
                (choice,) = json.loads(data)["choices"] or [{}]
                text += choice.get("delta", {}).get("content") or ""
                reason = choice.get("finish_reason") or reason
                if text and not killed:
                    killed = True
                    hold.kill(engine_of(worker))
        return text, reason

    with Spawned.held(hold, "--port", "0", *args) as worker:
        worker.ready()
        want = streamed(worker, kill=False)
        assert want[1] == "length"
        assert streamed(worker, kill=True) == want
        told = worker.http.get("/metrics").text
        assert re.search(r"^rbee_engine_restarts_total 1\.0$", told, re.M)
        worker.signal()
        assert worker.wait() == 0, worker.errors
