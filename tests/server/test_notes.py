"""What there is to know of a model and a prompt is told wherever answers are told."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from rbee_worker.config import Settings
from rbee_worker.types import Request, Started
from tests.server.fake_engine import Fake
from tests.server.reading import events
from tests.server.served import Served
from tests.session.fake_text import fake_client

NOTE = "weights of two formats were found; the second was left out"
ASK = {"prompt": "x", "max_tokens": 2, "seed": 1}


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served(Fake(notes=(NOTE,))) as server:
        yield server


def test_notes_stand_in_every_answer(served: Served) -> None:
    assert served.http.get("/info").json()["notes"] == [NOTE]
    job = served.http.post("/v1/jobs", json=ASK).json()
    started = events(served.http.get(job["sse_url"]).text)[0]
    assert (started["type"], started["warnings"]) == ("started", [NOTE])
    assert served.http.get(f"/v1/jobs/{job['job_id']}").json()["warnings"] == [NOTE]
    assert served.http.post("/v1/infer", json=ASK).json()["warnings"] == [NOTE]
    completion = served.http.post("/v1/completions", json=ASK).json()
    assert completion["choices"][0]["rbee"]["warnings"] == [NOTE]
    talk = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 2, "stream": True}
    streamed = events(served.http.post("/v1/chat/completions", json=talk).text)
    assert streamed[-2]["choices"][0]["rbee"]["warnings"] == [NOTE]


def test_nothing_is_said_where_there_is_nothing_to_say() -> None:
    with Served() as served:
        completion = served.http.post("/v1/completions", json=ASK).json()
        assert "warnings" not in completion["choices"][0]["rbee"]
        assert served.http.post("/v1/infer", json=ASK).json()["warnings"] == []


def test_the_engines_client_gathers_them() -> None:
    """Of the engine (checkpoint, model, memory), of generation_config.json, of the tokenizer."""

    async def first(**options: Any) -> Started:
        async with fake_client(settings=Settings(model="fake"), **options) as client:
            assert client.info is not None
            stream = client.generate(Request(id="a", prompt="hello", params={"max_tokens": 1}))
            started = await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            assert isinstance(started, Started)
            assert started.warnings == client.info.notes
            return started

    assert asyncio.run(first()).warnings == ("the pre-tokenizer is a fake",)
