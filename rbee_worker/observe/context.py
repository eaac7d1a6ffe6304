"""The correlation id of the current request, for logs, jobs and answers.

It is kept in a context variable, so tasks started by a request inherit it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_CORRELATION: ContextVar[str] = ContextVar("rbee_correlation_id", default="")


def correlation_id() -> str:
    """The id of the current request, "" outside any."""
    return _CORRELATION.get()


@contextmanager
def correlated(value: str) -> Iterator[None]:
    """Inside the block, the current request is `value`."""
    mark = _CORRELATION.set(value)
    try:
        yield
    finally:
        _CORRELATION.reset(mark)
