"""The errors between a client and a worker."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec

from rbee_worker.errors import FieldError, WorkerError


class ClientError(WorkerError):
    """Base of the errors in this module."""


class Unreachable(ClientError):
    """No worker answers at the address."""

    code = "UNREACHABLE"


class StreamBroken(ClientError):
    """A stream broke and could not be resumed."""

    code = "STREAM_BROKEN"


class Refused(ClientError):
    """The worker refused. `errors` lists the fields; `retry_after_s`: seconds until a retry."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        errors: tuple[FieldError, ...] = (),
        retry_after_s: float | None = None,
    ) -> None:
        self.status = status
        self.refusal = code
        self.errors = errors
        self.retry_after_s = retry_after_s
        super().__init__(message)


def refusal(response: httpx.Response) -> Refused:
    """The error for an unsuccessful response, whose body has been read."""
    body: Any = {}
    try:
        body = msgspec.json.decode(response.content)
        error = body["error"]
        code, message = str(error["code"]), str(error["message"])
        errors = tuple(msgspec.convert(body.get("errors", []), list[FieldError]))
    except (msgspec.MsgspecError, KeyError, TypeError, AttributeError):
        code, message, errors = "http_error", f"HTTP {response.status_code}", ()
    after = response.headers.get("retry-after", "")
    return Refused(
        response.status_code, code, message, errors, float(after) if after.isdigit() else None
    )
