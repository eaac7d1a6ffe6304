"""What one generated case may do: succeed, or fail with one line; within a second and 100 MB."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from rbee_worker.errors import LINE, WorkerError

T = TypeVar("T")
CPU_S = 1.0
BYTES = 100 << 20
_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass
class Outcome(Generic[T]):
    """value: what was made, None where it was refused with `error`."""

    value: T | None
    error: WorkerError | None


def within_budget(run: Callable[[], T]) -> Outcome[T]:
    """Run a case. AssertionError for a traceback, a hang, growth, or an error that is no line."""
    before = _peak(reset=True)
    began = time.process_time()
    outcome = _run(run)
    spent = time.process_time() - began
    grown = _peak() - before
    assert spent < CPU_S, f"{spent:.2f} s of processor time"
    assert grown < BYTES, f"{grown >> 20} MB"
    error = outcome.error
    if error is not None:
        assert "\n" not in str(error)
        assert len(error.line) <= LINE
        assert " Fix: " in error.line
        error.line.encode()
    return outcome


def _run(run: Callable[[], T]) -> Outcome[T]:
    try:
        return Outcome(run(), None)
    except WorkerError as error:
        return Outcome(None, error)


def _peak(*, reset: bool = False) -> int:
    """The most memory this process has held since the last reset, in bytes."""
    if reset:
        _CLEAR.write_text("5")
    text = _STATUS.read_text()
    return int(text.split("VmHWM:")[1].split()[0]) << 10
