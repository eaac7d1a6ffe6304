"""A stream cut anywhere and resumed is the uncut stream, byte for byte."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbee_worker.client import Client, Token, events
from rbee_worker.client.events import EventReader
from tests.server.fake_engine import Fake
from tests.server.reading import frames
from tests.server.served import Served, wait_for


@pytest.fixture(scope="module", autouse=True)
def soon() -> Iterator[None]:
    """A client that tries again at once: how long it waits is no matter here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(events, "FIRST_PAUSE_S", 0.002)
        yield


@pytest.fixture(scope="module")
def stream(served: Served) -> tuple[str, bytes]:
    """(url, whole stream) of a job with narrations, tokens, an echo and an unfinished character."""
    body = {"prompt": "cut me", "max_tokens": 60, "echo": True, "logprobs": 1}
    url = served.http.post("/v1/jobs", json=body).json()["sse_url"]
    return url, served.http.get(url).content


def test_cut_after_every_event(served: Served, stream: tuple[str, bytes]) -> None:
    url, whole = stream
    blocks = whole.split(b"\n\n")[:-1]
    assert len(blocks) > 50
    for k in range(1, len(blocks)):
        rest = served.http.get(url, headers={"Last-Event-ID": str(k)}).content
        assert b"\n\n".join(blocks[:k]) + b"\n\n" + rest == whole


def test_ids_that_were_never_sent_are_refused(served: Served, stream: tuple[str, bytes]) -> None:
    url, whole = stream
    last = len(whole.split(b"\n\n")) - 2
    assert served.http.get(url, headers={"Last-Event-ID": str(last)}).content == b"data: [DONE]\n\n"
    for bad in (str(last + 1), "-1", "x", "1e2", "9" * 40):
        response = served.http.get(url, headers={"Last-Event-ID": bad})
        assert response.status_code == 400, bad
        assert response.json()["errors"][0]["field"] == "Last-Event-ID"


class CuttingTransport(httpx.BaseTransport):
    """Breaks each stream after the next number of bytes in `cuts`; then stops breaking."""

    def __init__(self, cuts: list[int]) -> None:
        self._inner = httpx.HTTPTransport()
        self._cuts = cuts
        self.broken = 0

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = self._inner.handle_request(request)
        if not request.url.path.endswith("/stream") or not self._cuts:
            return response
        return httpx.Response(
            response.status_code,
            headers=response.headers,
            stream=_Cut(response, self._cuts.pop(0), self),
        )

    def close(self) -> None:
        self._inner.close()


class _Cut(httpx.SyncByteStream):
    def __init__(self, response: httpx.Response, size: int, owner: CuttingTransport) -> None:
        self._response = response
        self._size = size
        self._owner = owner

    def __iter__(self) -> Iterator[bytes]:
        left = self._size
        for part in self._response.stream:  # type: ignore[union-attr]
            if len(part) >= left:
                yield part[:left]
                self._owner.broken += 1
                raise httpx.ReadError("cut")
            left -= len(part)
            yield part

    def close(self) -> None:
        self._response.close()


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(cuts=st.lists(st.integers(0, 4000), max_size=6))
def test_the_client_resumes_by_itself(
    served: Served, stream: tuple[str, bytes], cuts: list[int]
) -> None:
    url, whole = stream
    want = EventReader().feed(whole)
    transport = CuttingTransport(list(cuts))
    with Client(served.url, served.token, transport=transport) as client:
        got = list(client.job(url.split("/")[3]).events())
    assert got == want


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_events_do_not_depend_on_how_bytes_arrive(
    stream: tuple[str, bytes], data: st.DataObject
) -> None:
    whole = stream[1]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=40)))
    reader = EventReader()
    got = []
    for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        got += reader.feed(whole[a:b])
    assert got == EventReader().feed(whole)
    assert reader.done
    assert len(got) == len(frames(whole.decode())) - 1


def test_a_live_job_is_resumed_while_it_runs() -> None:
    with Served(Fake(token_s=0.002)) as served:
        transport = CuttingTransport([2500, 300, 300, 4000, 10, 900])
        with Client(served.url, served.token, transport=transport) as client:
            job = client.submit(prompt="live", max_tokens=200)
            got = list(job.events())
            wait_for(lambda: job.state()["state"] == "done")
            want = list(client.job(job.id).events())
        assert transport.broken == 6
    assert got == want
    assert sum(len(e.ids) for e in got if isinstance(e, Token)) >= 195
