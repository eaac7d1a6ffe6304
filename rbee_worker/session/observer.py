"""The interface for timing: the client reports durations to it, `observe/trace.py` records them."""

from __future__ import annotations

from typing import Protocol

from rbee_worker.engine.messages import StepTimes


class Observer(Protocol):
    """Told of every step, and of the text side's part of it."""

    def step(self, times: StepTimes) -> None: ...

    def detokenized(self, start_us: float, tokens: int) -> None:
        """New ids became text; start_us: when that began (monotonic microseconds)."""
