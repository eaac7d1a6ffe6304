"""The asyncio client, with the same methods as the blocking one in `sync.py`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, Self

import httpx

from rbee_worker.client.events import EventReader, Patience
from rbee_worker.client.failures import Refused, StreamBroken, refusal
from rbee_worker.client.sync import READ_S, unreachable
from rbee_worker.wire import JobEvent


class AsyncClient:
    """A worker at `url`. Closing the client closes its connections; jobs continue.

    Raises Unreachable, Refused.
    """

    def __init__(
        self, url: str, token: str = "", *, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(READ_S, connect=5.0)
        self.url = url.rstrip("/")
        self.http = httpx.AsyncClient(
            base_url=self.url, headers=headers, timeout=timeout, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self.http.aclose()

    async def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """Send one JSON request; returns the JSON answer."""
        try:
            response = await self.http.request(method, path, json=body)
        except httpx.TransportError as error:
            raise unreachable(self.url, error) from None
        if response.is_error:
            raise refusal(response)
        return response.json()

    async def info(self) -> dict[str, Any]:
        """GET /info."""
        found: dict[str, Any] = await self.request("GET", "/info")
        return found

    async def ready(self) -> bool:
        """Whether the worker can serve now."""
        try:
            return bool((await self.request("GET", "/v1/ready"))["ready"])
        except Refused as error:
            if error.status == 503:
                return False
            raise

    async def infer(self, **request: Any) -> dict[str, Any]:
        """POST /v1/infer: prompt= or messages= or token_ids=, and parameters; the whole answer."""
        found: dict[str, Any] = await self.request("POST", "/v1/infer", request)
        return found

    async def submit(self, **request: Any) -> AsyncJob:
        """Start a job; its events are kept until somebody reads them."""
        created = await self.request("POST", "/v1/jobs", request)
        return AsyncJob(self, created["job_id"])

    def job(self, job_id: str) -> AsyncJob:
        """A job that already exists."""
        return AsyncJob(self, job_id)

    async def jobs(self) -> list[dict[str, Any]]:
        """GET /v1/jobs: newest first."""
        found: list[dict[str, Any]] = (await self.request("GET", "/v1/jobs"))["jobs"]
        return found

    async def generate(self, **request: Any) -> AsyncIterator[JobEvent]:
        """Start a job and yield its events; leaving the loop early cancels it."""
        job = await self.submit(**request)
        ended = False
        try:
            async for event in job.events():
                yield event
            ended = True
        finally:
            if not ended:
                await job.cancel()


class AsyncJob:
    """A job, identified by its id."""

    def __init__(self, client: AsyncClient, job_id: str) -> None:
        self._client = client
        self.id = job_id

    async def state(self) -> dict[str, Any]:
        """GET /v1/jobs/{id}."""
        found: dict[str, Any] = await self._client.request("GET", f"/v1/jobs/{self.id}")
        return found

    async def cancel(self) -> dict[str, Any]:
        """DELETE /v1/jobs/{id}: ends the job; no effect if it has ended."""
        found: dict[str, Any] = await self._client.request("DELETE", f"/v1/jobs/{self.id}")
        return found

    async def events(self, after: int = 0) -> AsyncIterator[JobEvent]:
        """Every event after number `after`, exactly once, even if the connection breaks.

        Raises StreamBroken if the worker stays unreachable, Refused if it no longer knows the job.
        """
        reader, patience = EventReader(after), Patience()
        while not reader.done:
            reader.restart()
            try:
                async for event in self._connection(reader):
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
            await asyncio.sleep(pause)

    async def _connection(self, reader: EventReader) -> AsyncIterator[JobEvent]:
        headers = {"Last-Event-ID": str(reader.last_id)} if reader.last_id else {}
        async with self._client.http.stream(
            "GET", f"/v1/jobs/{self.id}/stream", headers=headers
        ) as response:
            if response.is_error:
                await response.aread()
                raise refusal(response)
            async for data in response.aiter_raw():
                for event in reader.feed(data):
                    yield event
