"""How the worker says no: one body shape for every error of every route.

`{"error": {"message", "type", "param", "code", "errors"?}, "errors"?: [...]}`: what OpenAI clients
read, and the list of all offending fields where job clients look for it. Holds no prompt text.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from rbee_worker.errors import FieldError, InvalidRequest, NotReady, QueueFull, WorkerError

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


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
    """A request the server itself turns away, before or beside the engine."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        fix: str | None = None,
        headers: dict[str, str] | None = None,
        param: str | None = None,
    ) -> None:
        self.status = status
        self.error_code = code
        self.headers = headers or {}
        self.param = param
        super().__init__(message, fix=fix)


def json_response(
    content: Any, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """`content` (structs, dicts, lists) as a JSON answer."""
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
    """An error answer. `errors` lists every offending field."""
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    param = param or (errors[0].field if errors else None)
    body = ErrorBody(message=message, type=kind, code=code, param=param, errors=errors)
    return json_response(Problem(error=body, errors=errors), status, headers)


def answer(error: WorkerError) -> Response:
    """The answer that `error` stands for."""
    headers: dict[str, str] = {}
    if isinstance(error, Refusal):
        return problem(
            error.status, error.error_code, str(error), headers=error.headers, param=error.param
        )
    if isinstance(error, NotReady | QueueFull):
        headers["Retry-After"] = str(error.retry_after_s)
    errors = tuple(error.errors) if isinstance(error, InvalidRequest) else ()
    return problem(
        error.http_status, error.code.lower(), str(error), errors=errors, headers=headers
    )


async def on_worker_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, WorkerError)
    return answer(error)


async def on_http_exception(request: Request, error: Exception) -> Response:
    """What the router says: no such route, wrong method, and the like."""
    assert isinstance(error, HTTPException)
    words = {
        404: ("not_found", f"No route {request.url.path}; GET /docs lists them."),
        405: ("method_not_allowed", f"{request.method} is not allowed here."),
    }
    code, message = words.get(error.status_code, ("http_error", str(error.detail)))
    return problem(error.status_code, code, message, headers=dict(error.headers or {}))
