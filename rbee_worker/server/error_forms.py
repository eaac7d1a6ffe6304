"""The form that errors have in each API, by the path that was asked for.

Everywhere else it is the worker's own (`problems.Problem`), which OpenAI's clients read.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from msgspec import Struct
from starlette.types import ASGIApp, Receive, Scope, Send

from rbee_worker.errors import FieldError
from rbee_worker.server.problems import FORM, ErrorBody, Form, Problem


class OllamaProblem(Struct, frozen=True, omit_defaults=True):
    """The message alone; and the list of faulty fields."""

    error: str
    errors: tuple[FieldError, ...] = ()


class AnthropicProblem(Struct, frozen=True, kw_only=True):
    """Marked as an error."""

    type: Literal["error"] = "error"
    error: ErrorBody
    errors: tuple[FieldError, ...] = ()


class LlamaCppError(Struct, frozen=True):
    code: int  # the status
    message: str
    type: str
    param: str | None


class LlamaCppProblem(Struct, frozen=True, omit_defaults=True):
    error: LlamaCppError
    errors: tuple[FieldError, ...] = ()


def _ollama(error: ErrorBody, status: int) -> OllamaProblem:
    return OllamaProblem(error.message, error.errors)


def _anthropic(error: ErrorBody, status: int) -> AnthropicProblem:
    return AnthropicProblem(error=error, errors=error.errors)


def _llamacpp(error: ErrorBody, status: int) -> LlamaCppProblem:
    kind = "unavailable_error" if status == 503 else error.type
    told = LlamaCppError(status, error.message, kind, error.param)
    return LlamaCppProblem(told, error.errors)


class _Row(NamedTuple):
    """start: of the paths that have this form."""

    start: str
    form: Form
    body: type


_ROWS = (
    _Row("/api/", _ollama, OllamaProblem),
    _Row("/v1/messages", _anthropic, AnthropicProblem),
    _Row("/completion", _llamacpp, LlamaCppProblem),
    _Row("/infill", _llamacpp, LlamaCppProblem),
    _Row("/props", _llamacpp, LlamaCppProblem),
    _Row("/slots", _llamacpp, LlamaCppProblem),
    _Row("/embedding", _llamacpp, LlamaCppProblem),
)


def problem_type(path: str) -> type:
    """The body that errors have under this path."""
    return next((row.body for row in _ROWS if path.startswith(row.start)), Problem)


class ErrorForms:
    """ASGI middleware: tells all that may refuse a request in which form."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            scope[FORM] = next((row.form for row in _ROWS if path.startswith(row.start)), None)
        await self._app(scope, receive, send)
