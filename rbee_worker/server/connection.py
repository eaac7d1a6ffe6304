"""What one connection may cost: headers, silence, unread answers.

uvicorn parses and answers HTTP; this subclass adds the limits that it leaves open *before* a
request is whole (no route, hence no token check, has run then) and while an answer lies unread.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from rbee_worker.config import Settings

MAX_HEADER_BYTES = 32 * 1024  # of one request, its URL included


class TooMuch(Exception):
    """Raised inside the parser, which answers 400 and closes."""


class Connection(HttpToolsProtocol):
    """One client connection with limits. Made by `connection_class`."""

    limits: Settings

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._head_bytes = 0
        self._patience: asyncio.TimerHandle | None = None  # until the next request is whole
        self._stalled: asyncio.TimerHandle | None = None  # until the client reads on

    # ---- a request must arrive whole, and soon

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.limits.max_connections:
            transport.abort()
            self.transport = transport
            return
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._hurry_over()
        if self._stalled is not None:
            self._stalled.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._patience is None and (self.cycle is None or self.cycle.response_complete):
            self._await_request()
        super().data_received(data)

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        # a few beyond the limit still pass, so that the gate can answer with a proper 431
        if len(self.headers) > 2 * self.limits.max_headers:
            raise TooMuch
        super().on_header(name, value)

    def on_message_complete(self) -> None:
        self._hurry_over()
        super().on_message_complete()

    def _count(self, n: int) -> None:
        self._head_bytes += n
        if self._head_bytes > MAX_HEADER_BYTES:
            raise TooMuch

    def _await_request(self) -> None:
        self._hurry_over()
        self._patience = self.loop.call_later(self.limits.idle_timeout, self.transport.abort)

    def _hurry_over(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    # ---- an answer must be read

    def pause_writing(self) -> None:
        super().pause_writing()
        self._stalled = self.loop.call_later(self.limits.stall_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None


def connection_class(settings: Settings) -> type[Connection]:
    """`Connection` with the limits of `settings`."""
    return type("LimitedConnection", (Connection,), {"limits": settings})
