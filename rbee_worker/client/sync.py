"""The blocking client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any, Self

import httpx

from rbee_worker.client.events import EventReader, Patience
from rbee_worker.client.failures import Refused, StreamBroken, Unreachable, refusal
from rbee_worker.wire import JobEvent

READ_S = 30.0  # silence after which a stream counts as broken; workers send comments every 10 s


class Client:
    """A worker at `url`. Closing the client closes its connections; jobs continue.

    Raises Unreachable, Refused.
    """

    def __init__(
        self, url: str, token: str = "", *, transport: httpx.BaseTransport | None = None
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(READ_S, connect=5.0)
        self.url = url.rstrip("/")
        self.http = httpx.Client(
            base_url=self.url, headers=headers, timeout=timeout, transport=transport
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self.http.close()

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one JSON request; returns the JSON answer."""
        try:
            response = self.http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from None
        if response.is_error:
            raise refusal(response)
        return response.json()

    def info(self) -> dict[str, Any]:
        """GET /info."""
        found: dict[str, Any] = self.request("GET", "/info")
        return found

    def ready(self) -> bool:
        """Whether the worker can serve now."""
        try:
            return bool(self.request("GET", "/v1/ready")["ready"])
        except Refused as error:
            if error.status == 503:
                return False
            raise

    def infer(self, **request: Any) -> dict[str, Any]:
        """POST /v1/infer: prompt= or messages= or token_ids=, and parameters; the whole answer."""
        found: dict[str, Any] = self.request("POST", "/v1/infer", request)
        return found

    def submit(self, **request: Any) -> Job:
        """Start a job; its events are kept until somebody reads them."""
        created = self.request("POST", "/v1/jobs", request)
        return Job(self, created["job_id"])

    def job(self, job_id: str) -> Job:
        """A job that already exists."""
        return Job(self, job_id)

    def jobs(self) -> list[dict[str, Any]]:
        """GET /v1/jobs: newest first."""
        found: list[dict[str, Any]] = self.request("GET", "/v1/jobs")["jobs"]
        return found

    def generate(self, **request: Any) -> Iterator[JobEvent]:
        """Start a job and yield its events; leaving the loop early cancels it."""
        job = self.submit(**request)
        ended = False
        try:
            yield from job.events()
            ended = True
        finally:
            if not ended:
                job.cancel()


class Job:
    """A job, identified by its id."""

    def __init__(self, client: Client, job_id: str) -> None:
        self._client = client
        self.id = job_id

    def state(self) -> dict[str, Any]:
        """GET /v1/jobs/{id}."""
        found: dict[str, Any] = self._client.request("GET", f"/v1/jobs/{self.id}")
        return found

    def cancel(self) -> dict[str, Any]:
        """DELETE /v1/jobs/{id}: ends the job; no effect if it has ended."""
        found: dict[str, Any] = self._client.request("DELETE", f"/v1/jobs/{self.id}")
        return found

    def events(self, after: int = 0) -> Iterator[JobEvent]:
        """Every event after number `after`, exactly once, even if the connection breaks.

        Raises StreamBroken if the worker stays unreachable, Refused if it no longer knows the job.
        """
        reader, patience = EventReader(after), Patience()
        while not reader.done:
            reader.restart()
            try:
                for event in self._connection(reader):
                    patience.progress()
                    yield event
                if reader.done:
                    return
            except httpx.TransportError:
                pass
            except Refused as error:
                if error.status != 503:
                    raise
            pause = patience.pause()
            if pause is None:
                raise StreamBroken(f"The stream of {self.id} broke and could not be resumed.")
            time.sleep(pause)

    def _connection(self, reader: EventReader) -> Iterator[JobEvent]:
        headers = {"Last-Event-ID": str(reader.last_id)} if reader.last_id else {}
        with self._client.http.stream(
            "GET", f"/v1/jobs/{self.id}/stream", headers=headers
        ) as response:
            if response.is_error:
                response.read()
                raise refusal(response)
            for data in response.iter_raw():
                yield from reader.feed(data)


def unreachable(url: str, error: httpx.TransportError) -> Unreachable:
    """The error for a failed connection, in one line."""
    reason = str(error) or type(error).__name__
    return Unreachable(
        f"No worker answers at {url} ({reason}).", fix="start one: rbee-worker serve --local-mode."
    )
