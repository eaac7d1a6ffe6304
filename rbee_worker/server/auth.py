"""The gate in front of every route. Denies by default; `tokens.py` says who may call.

With tokens, everything except the public paths needs `Authorization: Bearer TOKEN`, for known and
unknown routes alike. In local mode there is no token; instead, a Host other than this machine, a
foreign Origin and bodies that are not JSON are refused (DNS rebinding, posts from other sites).
Headers that cannot be read as they were meant are refused before anything else.
"""

from __future__ import annotations

import time
import traceback
import uuid
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rbee_worker.config import Settings
from rbee_worker.errors import WorkerError
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
from rbee_worker.server.limits import Call, Holder, calling
from rbee_worker.server.problems import Refusal, answer, problem

if TYPE_CHECKING:
    from rbee_worker.server.worker import Worker

LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "[::1]"})
WORKER = "rbee.worker"  # key of a request's scope: the worker
UNREAD = "rbee.unread"  # key of a request's scope: names in its query that --lenient let through
IGNORED = "X-Ignored-Parameters"

log = logger("http")


def cors_origins(settings: Settings) -> list[str]:
    """The origins whose pages may call this worker."""
    return [origin.strip() for origin in settings.cors_origin.split(",") if origin.strip()]


class Gate:
    """ASGI middleware: correlation id, limits on headers, and access control."""

    def __init__(self, app: ASGIApp, worker: Worker, public: Collection[str]) -> None:
        settings = worker.settings
        self._app = app
        self._worker = worker
        self._tokens = worker.tokens
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

        holder = self._holder(headers)
        call = None if holder is None else Call(holder)
        with correlated(correlation), calling(call):
            try:
                scope[WORKER] = self._worker
                scope["app"] = self._app  # makes the router raise, not answer, 404 and 405
                refusal = self._refusal(scope, headers, fault, known=holder is not None)
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
                told = {
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "ms": round((time.perf_counter() - began) * 1e3, 1),
                }
                log.info("request", extra=fields(**told))
                if (audit := self._worker.observers.audit) is not None:
                    name = "" if holder is None else holder.name
                    peer = (scope.get("client") or ("",))[0]
                    audit.request(**told, token=name, peer=peer, correlation_id=correlation)

    def _refusal(
        self, scope: Scope, headers: Headers, fault: Refusal | None, *, known: bool
    ) -> Response | None:
        if len(scope["headers"]) > self._max_headers:
            message = f"More than {self._max_headers} headers."
            fault = Refusal(431, "too_many_headers", message, fix="send fewer (--max-headers).")
        refusal = fault or (self._refused_locally(scope, headers) if self._local else None)
        if refusal is None and not known and not self._open(scope):
            self._tokens.unauthorized += 1
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

    def _open(self, scope: Scope) -> bool:
        """Whether anybody may ask for this."""
        return scope["path"] in self._public and scope["method"] in ("GET", "HEAD")

    def _holder(self, headers: Headers) -> Holder | None:
        """Whose token the request has; None: nobody's."""
        if self._local:
            return self._tokens.anybody()
        if "authorization" not in headers:  # Anthropic's clients
            return self._tokens.find(headers.get(API_KEY, "").strip().encode())
        kind, _, given = headers.get("authorization", "").partition(" ")
        found = self._tokens.find(given.strip().encode())
        return found if kind.lower() == "bearer" else None

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
