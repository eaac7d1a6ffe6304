"""Limits on a connection: headers, silence, unread answers.

uvicorn parses and answers HTTP. This subclass adds the limits that uvicorn lacks *before* a request
is complete (no route, and so no token check, has run then) and while an answer stays unread. What
is refused here gets an error in the same form as everywhere.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Any

from starlette.responses import Response
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from rbee_worker.config import Settings
from rbee_worker.server.problems import Refusal, answer
from rbee_worker.server.sse import EVENTS

MAX_HEADER_BYTES = 32 * 1024  # of one request, including its URL
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"  # an interim answer, which clients skip
FIRST_PROBE_S, LAST_PROBE_S = 0.02, 1.0
GOODBYE_S = 1.0  # for an idle client's own goodbye, when the worker leaves


class TooMuch(Exception):
    """Raised inside the parser, which then calls `send_400_response`."""


class Elsewhere(Exception):
    """Like `TooMuch`: the request line names another host than the header Host."""


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
        self._wrong: Response | None = None  # the answer to a request that cannot be parsed
        self._half_closed = False  # the client sends no more, but may still read
        self._probing: asyncio.TimerHandle | None = None  # the next check of such a client
        self._patience: asyncio.TimerHandle | None = None  # until the next request is complete
        self._stalled: asyncio.TimerHandle | None = None  # until the client continues to read
        self._goodbye: asyncio.TimerHandle | None = None  # until nobody waits for the client

    # ---- a request must arrive completely, and soon

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if len(self.connections) >= self.limits.max_connections:
            self.transport = transport
            message = f"This worker already has {self.limits.max_connections} connections."
            fix = "close some, try again, or raise --max-connections."
            self._say(answer(Refusal(503, "too_many_connections", message, fix=fix)))
            return
        super().connection_made(transport)
        self._await_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._hurry_over()
        if self._stalled is not None:
            self._stalled.cancel()
        if self._probing is not None:
            self._probing.cancel()
        if self._goodbye is not None:
            self._goodbye.cancel()
        if self.flow is not None:
            super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.flow is None or self.transport.is_closing():
            return  # the connection was refused when it was made
        if self._patience is None and (self.cycle is None or self.cycle.response_complete):
            self._await_request()
        super().data_received(data)

    def send_400_response(self, msg: str) -> None:
        """Called by uvicorn if its parser cannot read a request, or if a callback here raised."""
        wrong = Refusal(400, "invalid_http", "This is not an HTTP request.", fix="send HTTP/1.1.")
        self._say(self._wrong or answer(wrong))

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(len(name) + len(value))
        # a few headers beyond the limit still pass, so that the gate can answer
        if len(self.headers) > 2 * self.limits.max_headers:
            self._wrong = self._too_many(f"More than {self.limits.max_headers} headers.")
            raise TooMuch
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.url.startswith(b"/") and self.url != b"*":
            self._check_authority()
        super().on_headers_complete()

    def _check_authority(self) -> None:
        """Refuse `GET http://host/path` if its host differs from the header's: a check reads only
        one of them."""
        named = self.url.partition(b"://")[2].partition(b"/")[0].partition(b"?")[0]
        if [value for name, value in self.headers if name == b"host"] != [named]:
            message = "The request line names another host than the header Host."
            self._wrong = answer(Refusal(400, "two_hosts", message, fix="send the path alone."))
            raise Elsewhere

    def on_message_complete(self) -> None:
        self._hurry_over()
        super().on_message_complete()

    def _count(self, n: int) -> None:
        self._head_bytes += n
        if self._head_bytes > MAX_HEADER_BYTES:
            self._wrong = self._too_many(f"More than {MAX_HEADER_BYTES} bytes of headers.")
            raise TooMuch

    def _too_many(self, message: str) -> Response:
        return answer(Refusal(400, "too_many_headers", message, fix="send fewer (--max-headers)."))

    def _await_request(self) -> None:
        self._hurry_over()
        self._patience = self.loop.call_later(self.limits.idle_timeout, self._too_slow)

    def _too_slow(self) -> None:
        """The time for a request is over. If one has begun, its client is told."""
        if self._head_bytes == 0 or (self.cycle is not None and self.cycle.response_started):
            self.transport.abort()
            return
        message = f"The request was not complete after {self.limits.idle_timeout} s."
        fix = "send faster, or raise --idle-timeout."
        self._say(answer(Refusal(408, "request_too_slow", message, fix=fix)))

    def _hurry_over(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None

    def _say(self, response: Response) -> None:
        """Send an answer outside any request, and close."""
        head = [STATUS_LINE[response.status_code], b"connection: close\r\n"]
        head += [b"%b: %b\r\n" % pair for pair in response.raw_headers]
        self.transport.write(b"".join([*head, b"\r\n", bytes(response.body)]))
        self.transport.close()

    # ---- a client that has closed its sending side

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """The client sends no more: it is gone, or it waits for its answer with its sending side
        closed. Data sent to it now shows which. True: the connection stays open."""
        cycle = self.cycle
        if self.transport.get_extra_info("ssl_object") is not None:
            return None  # TLS closes both ways
        if cycle is None or cycle.response_complete or cycle.more_body:
            return None
        harmless = CONTINUE
        if cycle.response_started:
            comment = cycle.scope.get(EVENTS)
            if not isinstance(comment, bytes):
                return None
            harmless = b"%x\r\n%b\r\n" % (len(comment), comment)  # one chunk
        self._half_closed = True
        if self.scope["http_version"] == "1.1":
            self.transport.write(harmless)
            self._probe(FIRST_PROBE_S)
        return True

    def _probe(self, pause: float) -> None:
        """After `pause` seconds, check whether a client that is gone has rejected what was sent."""
        self._probing = self.loop.call_later(pause, self._look, pause)

    def _look(self, pause: float) -> None:
        if self.transport.is_closing():
            return
        sock = self.transport.get_extra_info("socket")
        if sock is not None and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self._probe(min(2 * pause, LAST_PROBE_S))

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._half_closed and not self.pipeline:
            self.transport.close()

    # ---- the worker leaves

    def shutdown(self) -> None:
        """TLS says goodbye and waits for the client's. One that keeps a connection for later does
        not look at it, so that each end of a worker would take all the time that it may."""
        super().shutdown()
        if self.transport.is_closing() and self.transport.get_extra_info("ssl_object") is not None:
            self._goodbye = self.loop.call_later(GOODBYE_S, self._leave)

    def _leave(self) -> None:
        if self._stalled is None:  # otherwise it has not read all yet
            self.transport.abort()

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
