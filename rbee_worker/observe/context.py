"""The correlation id of the request that is being served, for logs, jobs and answers.

It lives in a context variable, so a task that a request starts inherits it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_CORRELATION: ContextVar[str] = ContextVar("rbee_correlation_id", default="")


def correlation_id() -> str:
    """The id of the present request, "" outside one."""
    return _CORRELATION.get()


@contextmanager
def correlated(value: str) -> Iterator[None]:
    """Everything inside belongs to the request `value`."""
    mark = _CORRELATION.set(value)
    try:
        yield
    finally:
        _CORRELATION.reset(mark)
