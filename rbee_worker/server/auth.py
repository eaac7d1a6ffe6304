"""Who may call: the gate in front of every route. Denies by default.

With a token, everything except the public paths needs `Authorization: Bearer TOKEN`, for known and
unknown routes alike. In local mode there is no token; instead, a Host other than this machine, a
foreign Origin and bodies that are not JSON are refused (DNS rebinding, posts from other sites).
Headers that cannot be read as they were meant are refused before anything else.
"""

from __future__ import annotations

import hmac
import time
import traceback
import uuid
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rbee_worker.config import Settings
from rbee_worker.errors import UsageError, WorkerError
from rbee_worker.observe.context import correlated
from rbee_worker.observe.log import fields, logger
from rbee_worker.server.headers import (
    API_KEY,
    CORRELATION,
    has_body,
    host_name,
    length,
    malformed,
    media_type,
)
from rbee_worker.server.problems import Refusal, answer, problem

if TYPE_CHECKING:
    from rbee_worker.server.worker import Worker

MIN_TOKEN = 16
LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
WORKER = "rbee.worker"  # key of a request's scope: the worker
UNREAD = "rbee.unread"  # key of a request's scope: names in its query that --lenient let through
IGNORED = "X-Ignored-Parameters"

log = logger("http")


def read_token(settings: Settings, environ: Mapping[str, str]) -> str:
    """The token of this worker, "" in local mode. Raises UsageError if mode and token conflict."""
    token = environ.get("RBEE_API_TOKEN") or environ.get("LLORCH_API_TOKEN") or ""
    if settings.local_mode:
        if token:
            raise UsageError(
                "--local-mode serves without a token, but RBEE_API_TOKEN is set.",
                fix="unset RBEE_API_TOKEN (and LLORCH_API_TOKEN), or leave --local-mode out.",
            )
        return ""
    if not token:
        raise UsageError(
            "A worker that others can reach needs a token.",
            fix=f"set RBEE_API_TOKEN (at least {MIN_TOKEN} characters), or use --local-mode.",
        )
    if len(token) < MIN_TOKEN:
        raise UsageError(
            f"RBEE_API_TOKEN has {len(token)} characters.", fix=f"use at least {MIN_TOKEN}."
        )
    if not token.isascii() or not token.isprintable():
        raise UsageError(
            "RBEE_API_TOKEN has characters that no header can carry.", fix="use printable ASCII."
        )
    return token


def cors_origins(settings: Settings) -> list[str]:
    """The origins whose pages may call this worker."""
    return [origin.strip() for origin in settings.cors_origin.split(",") if origin.strip()]


class Gate:
    """ASGI middleware: correlation id, limits on headers, and access control."""

    def __init__(self, app: ASGIApp, worker: Worker, token: str, public: Collection[str]) -> None:
        settings = worker.settings
        self._app = app
        self._worker = worker
        self._token = token.encode()
        self._local = settings.local_mode
        self._friends = frozenset(cors_origins(settings))
        self._public = frozenset(public)
        self._max_headers = settings.max_headers
        self._max_body = settings.max_body_kb * 1024

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
            return
        headers = Headers(scope=scope)
        fault = malformed(headers, scope["http_version"])
        named = fault is None or fault.param != CORRELATION
        correlation = (named and headers.get(CORRELATION)) or uuid.uuid4().hex
        began = time.perf_counter()
        status = 0

        async def tagged(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                _tag(MutableHeaders(scope=message), correlation, scope.get(UNREAD, ()))
            await send(message)

        with correlated(correlation):
            try:
                scope[WORKER] = self._worker
                scope["app"] = self._app  # makes the router raise, not answer, 404 and 405
                refusal = self._refusal(scope, headers, fault)
                await (refusal or self._app)(scope, receive, tagged)
            except Exception as error:
                # never the exception's own text, which may repeat what the caller sent
                log.error(
                    "request failed",
                    extra=fields(
                        path=scope["path"], error=type(error).__name__, where=place_of(error)
                    ),
                )
                if status == 0:
                    await _crash(error)(scope, receive, tagged)
            finally:
                spent = round((time.perf_counter() - began) * 1e3, 1)
                log.info(
                    "request",
                    extra=fields(
                        method=scope["method"], path=scope["path"], status=status, ms=spent
                    ),
                )

    def _refusal(self, scope: Scope, headers: Headers, fault: Refusal | None) -> Response | None:
        if len(scope["headers"]) > self._max_headers:
            message = f"More than {self._max_headers} headers."
            fault = Refusal(431, "too_many_headers", message, fix="send fewer (--max-headers).")
        refusal = fault or (self._refused_locally(scope, headers) if self._local else None)
        if refusal is None and not self._local and not self._known(scope, headers):
            refusal = Refusal(
                401,
                "invalid_api_key",
                "This worker needs its token.",
                fix="send Authorization: Bearer TOKEN (or X-API-Key: TOKEN).",
                headers={"WWW-Authenticate": "Bearer"},
            )
        if refusal is None and length(headers) > self._max_body:
            refusal = too_large(self._max_body)
        return answer(refusal) if refusal is not None else None

    def _known(self, scope: Scope, headers: Headers) -> bool:
        if scope["path"] in self._public and scope["method"] in ("GET", "HEAD"):
            return True
        if "authorization" not in headers:  # Anthropic's clients
            return hmac.compare_digest(headers.get(API_KEY, "").strip().encode(), self._token)
        kind, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode(), self._token)
        return right and kind.lower() == "bearer"

    def _refused_locally(self, scope: Scope, headers: Headers) -> Refusal | None:
        host = headers.get("host", "")
        if host_name(host) not in LOCAL_HOSTS:
            message = "Local mode answers requests to localhost only."
            fix = "use localhost or 127.0.0.1, or serve with a token and without --local-mode."
            return Refusal(403, "foreign_host", message, fix=fix, param="host")
        origin = headers.get("origin")
        friend = origin is None or origin in self._friends or urlsplit(origin).netloc == host
        if not friend:
            message = "Local mode refuses pages of other sites."
            fix = "name the site with --cors-origin."
            return Refusal(403, "foreign_origin", message, fix=fix, param="origin")
        if has_body(headers) and media_type(headers) != "application/json":
            message = "Bodies must be JSON in local mode."
            fix = "send Content-Type: application/json."
            return Refusal(415, "not_json", message, fix=fix, param="content-type")
        return None


def _tag(headers: MutableHeaders, correlation: str, unread: Sequence[str]) -> None:
    """Put into every answer the request's id and the query parameters that were not read."""
    headers[CORRELATION] = correlation
    names = [quote(name, safe="") for name in unread]
    if names:
        headers[IGNORED] = ", ".join([*filter(None, [headers.get(IGNORED)]), *names])


def too_large(limit: int) -> Refusal:
    """The error for a body of more than `limit` bytes."""
    message = f"The body is larger than {limit} bytes."
    return Refusal(413, "body_too_large", message, fix="send less, or raise --max-body-kb.")


def _crash(error: Exception) -> Response:
    if isinstance(error, WorkerError):
        return answer(error)
    message = "An error inside the worker. Fix: its log says more; please report it."
    return problem(500, "internal_error", message)


def place_of(error: BaseException) -> str:
    """The place where `error` was raised: "jobs.py:42 in append"."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{frame.filename.rpartition('/')[2]}:{frame.lineno} in {frame.name}"
