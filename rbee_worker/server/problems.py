"""Errors over HTTP: one body shape for every error of every route.

`{"error": {"message", "type", "param", "code", "errors"?}, "errors"?: [...]}`: the form that OpenAI
clients read, and the list of all faulty fields where job clients expect it. Contains no prompt
text.
"""

from __future__ import annotations

import difflib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rbee_worker.errors import (
    FieldError,
    InvalidRequest,
    NotReady,
    QueueFull,
    WorkerError,
    one_line,
)

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


_MOST_PATH = 128  # characters of a path up to which the nearest route is searched


class ErrorBody(msgspec.Struct, frozen=True, omit_defaults=True):
    message: str
    type: str
    code: str
    param: str | None
    errors: tuple[FieldError, ...] = ()


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """The body of every answer that is not a success."""

    error: ErrorBody
    errors: tuple[FieldError, ...] = ()


class Refusal(WorkerError):
    """A request that the server itself refuses, without the engine."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fix: str,
        headers: dict[str, str] | None = None,
        param: str | None = None,
    ) -> None:
        self.status = status
        self.error_code = code
        self.headers = headers or {}
        self.param = param
        super().__init__(message, fix=fix)


FORM = "rbee.error_form"  # key of a request's scope: makes the body of an error in another form
Form = Callable[["ErrorBody", int], Any]  # of an error and its status


class ProblemResponse(Response):
    """An error in the form of the API whose path was asked for."""

    def __init__(self, error: ErrorBody, status: int, headers: dict[str, str] | None) -> None:
        self.error = error
        body = msgspec.json.encode(Problem(error=error, errors=error.errors))
        super().__init__(body, status, headers, media_type="application/json")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        form: Form | None = scope.get(FORM)
        if form is not None:
            self.body = msgspec.json.encode(form(self.error, self.status_code))
            self.headers["content-length"] = str(len(self.body))
        await super().__call__(scope, receive, send)


def json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A JSON answer with `content` (structs, dicts, lists)."""
    return Response(
        msgspec.json.encode(content),
        status_code=status,
        headers=headers,
        media_type="application/json",
    )


def problem(
    status: int,
    code: str,
    message: str,
    *,
    errors: tuple[FieldError, ...] = (),
    param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """An error answer. `errors` lists every faulty field."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = param or (errors[0].field if errors else None)
    line = one_line(message)
    body = ErrorBody(message=line, type=kind, code=code, param=param, errors=errors)
    return ProblemResponse(body, status, headers)


def answer(error: WorkerError) -> Response:
    """The HTTP answer for `error`."""
    headers: dict[str, str] = {}
    if isinstance(error, Refusal):
        return problem(
            error.status, error.error_code, str(error), headers=error.headers, param=error.param
        )
    if isinstance(error, NotReady | QueueFull):
        headers["Retry-After"] = str(error.retry_after_s)
        error.fix = error.fix or f"try again in {error.retry_after_s} s."
    errors: tuple[FieldError, ...] = ()
    if isinstance(error, InvalidRequest):
        errors = tuple(error.told)
        error.fix = error.fix or "correct each field in errors; GET /info lists all parameters."
    return problem(
        error.http_status, error.code.lower(), str(error), errors=errors, headers=headers
    )


async def on_worker_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, WorkerError)
    return answer(error)


def not_found(paths: Sequence[str]) -> Callable[[Request, Exception], Awaitable[Response]]:
    """The handler for a path that is not one of `paths`."""

    async def handler(request: Request, error: Exception) -> Response:
        path = request.url.path
        near = difflib.get_close_matches(path, paths, n=1) if len(path) <= _MOST_PATH else []
        fix = f"did you mean {near[0]}? " if near else ""
        fix += "GET /docs lists all routes."
        return answer(Refusal(404, "not_found", f"There is no route {path}.", fix=fix))

    return handler


async def on_http_exception(request: Request, error: Exception) -> Response:
    """The answer to the router's own errors, such as a wrong method."""
    assert isinstance(error, HTTPException)
    headers = dict(error.headers or {})
    if error.status_code == 405:
        message = f"{request.method} is not allowed here."
        fix = f"use {headers.get('Allow', 'another method')}."
        return answer(Refusal(405, "method_not_allowed", message, fix=fix, headers=headers))
    detail = f"{error.detail}."
    fix = "GET /docs describes all routes."
    return answer(Refusal(error.status_code, "http_error", detail, fix=fix, headers=headers))
