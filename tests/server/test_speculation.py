"""What a real worker tells of drafts, wherever it tells of an answer."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
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
        assert spawned.wait(120) == 0, spawned.errors


def told(worker: Spawned, name: str) -> int:
    found = re.search(rf"^rbee_{name}_total (\S+)$", worker.http.get("/metrics").text, re.M)
    assert found is not None
    return int(float(found[1]))


def test_drafted_and_accepted_tokens_are_told_everywhere(worker: Spawned) -> None:
    assert worker.http.get("/info").json()["speculate"] == "ngram"
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


def test_a_request_that_drafts_nothing_is_answered_alike(worker: Spawned) -> None:
    one = worker.http.post("/v1/infer", json=ASKED).json()
    other = worker.http.post("/v1/infer", json={**ASKED, "speculation": False}).json()
    assert other["token_ids"] == one["token_ids"]
    assert (other["drafted_tokens"], other["accepted_tokens"]) == (0, 0)
    assert other["sampling"]["speculation"] == {"value": False, "origin": "request"}
    completion = worker.http.post("/v1/completions", json={**ASKED, "speculation": False}).json()
    assert "drafted_tokens" not in completion["choices"][0]["rbee"]


def test_a_stop_string_cuts_the_counts_with_the_answer(worker: Spawned) -> None:
    """The engine may be further when it hears of it, and how far depends on the moment."""
    whole = worker.http.post("/v1/infer", json=ASKED).json()["text"]
    found = []
    for _ in range(5):
        answer = worker.http.post("/v1/infer", json={**ASKED, "stop": whole[20:24]}).json()
        assert answer["stop_reason"] == "STOP_SEQUENCE"
        found.append((answer["token_ids"], answer["drafted_tokens"], answer["accepted_tokens"]))
    assert found == found[:1] * 5
