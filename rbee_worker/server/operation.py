"""One row of the route table: a method of a path, with its request and its answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from rbee_worker.params import Surface

Endpoint = Callable[[HttpRequest], Awaitable[ASGIApp]]


@dataclass(frozen=True)
class Operation:
    """One method of one path.

    body: envelope of the request; params: the surface whose sampling parameters may be in the body
    too; answer: body of a success; events: whether the answer is (or can be) a stream of events,
    lines: one of lines, of which each is an `answer`; sounds: media types of sound, for an answer
    that can be sound instead; errors: statuses besides those of every route; headers: those that
    this route reads and others do not, in lower case; same_as: the path of which this one is
    another name.
    """

    method: str
    path: str
    endpoint: Endpoint
    tag: str
    summary: str
    body: type | None = None
    params: Surface | None = None
    answer: Any = None
    media: str = "application/json"
    events: bool = False
    lines: bool = False
    sounds: tuple[str, ...] = ()
    errors: tuple[int, ...] = ()
    deprecated: bool = False
    headers: tuple[str, ...] = ()
    same_as: str = ""

    def under(self, path: str) -> Operation:
        """The same operation under another path."""
        summary = f"Another name of {self.path}"
        return replace(self, path=path, summary=summary, same_as=self.path)

    @property
    def works(self) -> bool:
        """Whether the engine computes the answer."""
        return {*WORK} <= {*self.errors}


WORK = (400, 404, 408, 413, 429, 500, 503, 507)  # the statuses of routes that use the engine
TEXT = (400, 408, 413, 503)

JOB = "jobs"
OPENAI = "openai"
ANTHROPIC = "anthropic"
STATE = "state"
LANGUAGE = "text"
SCORES = "scores"
ADAPTERS = "adapters"
OLLAMA = "ollama"
LLAMACPP = "llama.cpp"
