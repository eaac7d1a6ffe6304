"""The Python client: typed events, errors, resuming, cancelling; blocking and asyncio alike."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from rbee_worker.cli import set_values
from rbee_worker.cli.remote import open_worker
from rbee_worker.client import (
    AsyncClient,
    Client,
    End,
    Narration,
    Refused,
    Started,
    StreamBroken,
    Token,
    Unreachable,
)
from rbee_worker.client import events as client_events
from rbee_worker.client.events import EventReader
from rbee_worker.errors import UsageError
from rbee_worker.types import End as EngineEnd
from rbee_worker.types import Request
from rbee_worker.types import Started as EngineStarted
from rbee_worker.types import Token as EngineToken
from tests.server.fake_engine import Fake
from tests.server.served import Served, wait_for


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    with Served() as server:
        yield server


def both(served: Served, call: Callable[[Any], Any]) -> list[Any]:
    """What `call` gives with the blocking client and with the asyncio one."""
    with Client(served.url, served.token) as client:
        one = call(client)
        one = list(one) if isinstance(one, Iterator) else one

    async def run() -> Any:
        async with AsyncClient(served.url, served.token) as client:
            found = call(client)
            if hasattr(found, "__aiter__"):
                return [event async for event in found]
            return await found

    return [one, asyncio.run(run())]


def test_events_are_typed(served: Served) -> None:
    for found in both(served, lambda c: c.generate(prompt="x", max_tokens=9, seed=4)):
        assert isinstance(found[0], Started)
        assert found[0].seed == 4
        assert found[0].sampling["max_tokens"].origin == "request"
        assert isinstance(found[1], Narration)
        assert isinstance(found[-1], End)
        assert found[-1].stop.rule == "MAX_TOKENS"
        ids = [i for e in found if isinstance(e, Token) for i in e.ids] + list(found[-1].ids)
        assert len(ids) == 9


def test_the_rest_of_the_interface(served: Served) -> None:
    assert both(served, lambda c: c.ready()) == [True, True]
    infos = both(served, lambda c: c.info())
    assert [i["implementation"] for i in infos] == ["rbee-worker"] * 2
    answers = both(served, lambda c: c.infer(prompt="x", max_tokens=3, seed=1))
    assert answers[0]["text"] == answers[1]["text"]
    assert all(len(jobs) >= 2 for jobs in both(served, lambda c: c.jobs()))


def test_refusals_carry_every_fault(served: Served) -> None:
    with Client(served.url, served.token) as client:
        with pytest.raises(Refused) as caught:
            client.submit(prompt="x", temperature=9, odd=1)
        assert caught.value.status == 400
        assert [e.field for e in caught.value.errors] == ["temperature", "odd"]
    with Client(served.url, "another-token-entirely") as client:
        with pytest.raises(Refused) as caught:
            client.info()
        assert (caught.value.status, caught.value.refusal) == (401, "invalid_api_key")
        with pytest.raises(Refused):
            list(client.job("job-none").events())


def test_a_full_queue_says_when_to_come_again() -> None:
    slow = Fake(hold=threading.Event(), hold_at=9, slots=1)
    with Served(slow, max_queue=0) as served, Client(served.url, served.token) as client:
        job = client.submit(prompt="x")
        with pytest.raises(Refused) as caught:
            client.submit(prompt="x")
        job.cancel()
    assert caught.value.status == 429
    assert caught.value.retry_after_s is not None


def test_no_worker() -> None:
    with Client("http://127.0.0.1:9") as client, pytest.raises(Unreachable, match="serve"):
        client.info()


def test_leaving_the_loop_cancels_the_job() -> None:
    with (
        Served(Fake(hold=threading.Event(), hold_at=9)) as served,
        Client(served.url, served.token) as client,
    ):
        for event in client.generate(prompt="x", max_tokens=900):
            if isinstance(event, Token):
                break
        wait_for(lambda: served.engine.held == 0)
        assert client.jobs()[0]["stop_reason"] == "CANCELLED"


def test_a_worker_that_stays_away_breaks_the_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_events, "FIRST_PAUSE_S", 0.001)
    tries = []

    def gone(request: httpx.Request) -> httpx.Response:
        tries.append(request.headers.get("last-event-id"))
        if len(tries) == 1:
            first = b'id: 1\ndata: {"type":"token","t":"a","i":0,"ids":[1]}\n\n'
            return httpx.Response(200, content=iter([first]))  # ends without [DONE]
        raise httpx.ConnectError("gone")

    seen = []
    transport = httpx.MockTransport(gone)
    with Client("http://w", transport=transport) as client:
        events = client.job("j").events()
        seen.append(next(events))
        with pytest.raises(StreamBroken):
            next(events)
    assert len(seen) == 1
    assert tries == [None, *["1"] * client_events.TRIES]


def test_unknown_events_of_newer_workers_are_skipped() -> None:
    reader = EventReader()
    assert reader.feed(b'id: 1\ndata: {"type":"aurora"}\n\n') == []
    (event,) = reader.feed(
        b': hm\n\nid: 2\r\ndata: {"type":"token","t":"a","i":0,"ids":[1]}\r\n\r\n'
    )
    assert isinstance(event, Token)
    assert reader.last_id == 2


def test_chat_talks_to_a_worker_elsewhere(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `rbee-worker chat --url` puts in the engine's place."""
    monkeypatch.setenv("RBEE_API_TOKEN", served.token)

    async def run() -> list[Any]:
        async with open_worker(served.url) as remote:
            assert remote.info is not None
            assert remote.info.context == 4096
            talk = ({"role": "user", "content": "hello"},)
            request = Request(id="r", messages=talk, params={"max_tokens": 30, "seed": 2})
            return [event async for event in remote.generate(request)]

    found = asyncio.run(run())
    assert isinstance(found[0], EngineStarted)
    assert found[0].sampling.params.seed == 2
    assert isinstance(found[-1], EngineEnd)
    assert found[-1].usage.output_tokens == 30
    tokens = [e for e in found if isinstance(e, EngineToken)]
    assert sum(len(t.ids) for t in tokens) + len(found[-1].ids) == 30


def test_a_chat_elsewhere_knows_the_defaults_that_hold_there(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("RBEE_API_TOKEN", raising=False)

    async def run(url: str) -> dict[str, Any]:
        async with open_worker(url) as remote:
            with pytest.raises(UsageError, match="temperature: must be at most 2"):
                set_values.read("temperature", "9", remote.rules)
            return set_values.defaults(remote.rules)

    with Served(token="", top_k=9) as served:
        found = asyncio.run(run(served.url))
    assert found["top_k"] == {"value": 9, "origin": "worker option"}
    assert found["top_p"] == {"value": 0.95, "origin": "worker default (chat)"}


def test_a_chat_can_be_interrupted_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    with Served(Fake(hold=threading.Event(), hold_at=9), token="") as served:
        monkeypatch.delenv("RBEE_API_TOKEN", raising=False)

        async def run() -> str:
            async with open_worker(served.url) as remote:
                talk = ({"role": "user", "content": "hello"},)
                async for event in remote.generate(Request(id="r", messages=talk)):
                    if isinstance(event, EngineToken):
                        await remote.cancel("r")
                    if isinstance(event, EngineEnd):
                        return event.stop.rule
            raise AssertionError

        assert asyncio.run(run()) == "CANCELLED"
