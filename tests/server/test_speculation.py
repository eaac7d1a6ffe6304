"""What a real worker tells of drafts, wherever it tells of an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests import tiny
from tests.server.spawned import Spawned

ASKED: dict[str, Any] = {
    "prompt": "a hive",
    "max_tokens": 60,
    "temperature": 1,
    "seed": 3,
    "logit_bias": {"65": 9, "66": 9, "67": 9},
    "ignore_eos": True,
}


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Spawned]:
    model = tiny.write_safetensors(tmp_path_factory.mktemp("speculation") / "tiny")
    args = ("--local-mode", "--port", "0", "--model-ref", str(model), "--speculate", "ngram")
    with Spawned.daemon(*args, "--threads", "1") as spawned:
        spawned.ready(600)
        yield spawned
        spawned.signal()
        assert spawned.wait() == 0, spawned.errors


def told(worker: Spawned, name: str) -> int:
    found = re.search(rf"^rbee_{name}_total (\S+)$", worker.http.get("/metrics").text, re.M)
    assert found is not None
    return int(float(found[1]))


def test_drafted_and_accepted_tokens_are_told_everywhere(worker: Spawned) -> None:
    assert worker.http.get("/info").json()["speculate"] == "ngram"
    kinds = re.findall(
        r'^rbee_speculation\{how="(\w+)"\} (\S+)$', worker.http.get("/metrics").text, re.M
    )
    assert dict(kinds) == {"off": "0.0", "ngram": "1.0", "draft": "0.0", "mtp": "0.0"}
    infer = worker.http.post("/v1/infer", json=ASKED).json()
    counts = infer["drafted_tokens"], infer["accepted_tokens"]
    assert 0 < counts[1] < counts[0]
    created = worker.http.post("/v1/jobs", json=ASKED).json()
    frames = re.findall(r"^data: (\{.*\})$", worker.http.get(created["sse_url"]).text, re.M)
    events = [json.loads(frame) for frame in frames]
    end = events[-1]
    assert end["type"] == "end"
    assert (end["drafted_tokens"], end["accepted_tokens"]) == counts
    [narration] = [e for e in events if e.get("action") == "drafted"]
    assert (
        narration["human"]
        == f"{counts[0]} tokens of the answer drafted, {counts[1]} of them drawn."
    )
    completion = worker.http.post("/v1/completions", json={**ASKED, "n": 2}).json()
    [first, second] = [choice["rbee"] for choice in completion["choices"]]
    assert (first["drafted_tokens"], first["accepted_tokens"]) == counts
    assert second["drafted_tokens"] > 0
    drafted = 3 * counts[0] + second["drafted_tokens"]
    accepted = 3 * counts[1] + second["accepted_tokens"]
    stats = worker.http.get("/v1/stats").json()
    assert (stats["drafted_tokens"], stats["accepted_tokens"]) == (drafted, accepted)
    assert (told(worker, "drafted_tokens"), told(worker, "accepted_tokens")) == (drafted, accepted)


def test_the_forms_of_other_programs_tell_of_drafts_too(worker: Spawned) -> None:
    """A prompt that repeats itself, so that something is drafted whatever is drawn."""
    words, sampling = "a hive " * 12, {"temperature": 0, "seed": 3}
    model = worker.http.get("/v1/models").json()["data"][0]["id"]
    options = {**sampling, "num_predict": 50}
    asked = {"model": model, "prompt": words, "raw": True, "options": options}
    lines = worker.http.post("/api/generate", json=asked).text.splitlines()
    whole = worker.http.post("/api/generate", json={**asked, "stream": False}).json()
    told = whole["rbee"]
    assert json.loads(lines[-1])["rbee"] == told
    assert told["drafted_tokens"] > 0
    given = {"prompt": words, "n_predict": 50, **sampling}
    timings = worker.http.post("/completion", json=given).json()["timings"]
    counts = timings["draft_n"], timings["draft_n_accepted"]
    assert (told["drafted_tokens"], told.get("accepted_tokens", 0)) == counts
    asked = {"model": model, "input": words, "max_output_tokens": 50, **sampling}
    response = worker.http.post("/v1/responses", json=asked).json()
    chat = {"model": model, "messages": [{"role": "user", "content": words}], "max_tokens": 50}
    answer = worker.http.post("/v1/chat/completions", json={**chat, **sampling}).json()
    assert response["rbee"] == answer["choices"][0]["rbee"]
    assert response["rbee"]["drafted_tokens"] > 0
    asked = {k: v for k, v in {**chat, **sampling}.items() if k != "model"}
    message = worker.http.post("/v1/messages", json=asked).json()
    streamed = worker.http.post("/v1/messages", json={**asked, "stream": True}).text
    frames = re.findall(r"^data: (\{.*\})$", streamed, re.M)
    [delta] = [found for f in frames if (found := json.loads(f))["type"] == "message_delta"]
    assert delta["rbee"] == message["rbee"]
    rbee = answer["choices"][0]["rbee"]
    assert {name: message["rbee"][name] for name in rbee if name != "stop"} == {
        name: value for name, value in rbee.items() if name != "stop"
    }
    assert {name: message["rbee"][name] for name in rbee["stop"]} == rbee["stop"]


def test_a_request_that_drafts_nothing_is_answered_alike(worker: Spawned) -> None:
    one = worker.http.post("/v1/infer", json=ASKED).json()
    other = worker.http.post("/v1/infer", json={**ASKED, "speculation": False}).json()
    assert other["token_ids"] == one["token_ids"]
    assert (other["drafted_tokens"], other["accepted_tokens"]) == (0, 0)
    assert other["sampling"]["speculation"] == {"value": False, "origin": "request"}
    completion = worker.http.post("/v1/completions", json={**ASKED, "speculation": False}).json()
    assert "drafted_tokens" not in completion["choices"][0]["rbee"]


def test_every_api_can_do_without(worker: Spawned) -> None:
    """The worker's own field, where each API has its sampling parameters: the tokens are the same,
    nothing is drafted, and another value than true and false is refused under its name."""
    words, sampling = "a hive " * 12, {"temperature": 0, "seed": 3}
    talk = [{"role": "user", "content": words}]
    options = {**sampling, "num_predict": 50}
    raw = {"prompt": words, "raw": True, "stream": False}
    rows: list[tuple[str, dict[str, Any], str, Callable[[Any], tuple[Any, int]]]] = [
        (
            "/v1/messages",
            {"messages": talk, "max_tokens": 50, **sampling},
            "speculation",
            lambda a: (a["content"], a["rbee"]["drafted_tokens"]),
        ),
        (
            "/v1/responses",
            {"input": words, "max_output_tokens": 50, **sampling},
            "speculation",
            lambda a: (a["output"][0]["content"], a["rbee"].get("drafted_tokens", 0)),
        ),
        (
            "/v1/chat/completions",
            {"messages": talk, "max_tokens": 50, **sampling},
            "speculation",
            lambda a: (
                a["choices"][0]["message"],
                a["choices"][0]["rbee"].get("drafted_tokens", 0),
            ),
        ),
        (
            "/completion",
            {"prompt": words, "n_predict": 50, **sampling},
            "speculation",
            lambda a: (a["content"], a["timings"]["draft_n"]),
        ),
        (
            "/api/generate",
            {**raw, "options": options},
            "options.speculation",
            lambda a: (a["response"], a["rbee"].get("drafted_tokens", 0)),
        ),
        (
            "/api/chat",
            {"messages": talk, "stream": False, "options": options},
            "options.speculation",
            lambda a: (a["message"], a["rbee"].get("drafted_tokens", 0)),
        ),
    ]

    def ask(path: str, body: dict[str, Any], field: str, value: Any) -> Any:
        inner = {**body.get("options", {}), "speculation": value}
        body = {**body, "options": inner} if "." in field else {**body, "speculation": value}
        return worker.http.post(path, json=body)

    for path, body, field, read in rows:
        on, off = (read(ask(path, body, field, value).json()) for value in (True, False))
        assert off[0] == on[0], path
        assert on[1] > 0 == off[1], path
        refused = ask(path, body, field, 1)
        assert refused.status_code == 400, path
        told = refused.json()
        assert field in json.dumps(told.get("errors", told)), path
    answer = ask("/completion", rows[3][1], "speculation", False).json()
    assert answer["generation_settings"]["speculation"] is False


def test_a_stop_string_cuts_the_counts_with_the_answer(worker: Spawned) -> None:
    """The engine may be further when it hears of it, and how far depends on the moment."""
    whole = worker.http.post("/v1/infer", json=ASKED).json()["text"]
    found = []
    for _ in range(5):
        answer = worker.http.post("/v1/infer", json={**ASKED, "stop": whole[20:24]}).json()
        assert answer["stop_reason"] == "STOP_SEQUENCE"
        found.append((answer["token_ids"], answer["drafted_tokens"], answer["accepted_tokens"]))
    assert found == found[:1] * 5
