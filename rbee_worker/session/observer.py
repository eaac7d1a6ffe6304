"""Who wants to know how long things take: the client tells, `observe/trace.py` listens."""

from __future__ import annotations

from typing import Protocol

from rbee_worker.engine.messages import StepTimes


class Observer(Protocol):
    """Told of every step and of the text side's part of it."""

    def step(self, times: StepTimes) -> None: ...

    def detokenized(self, start_us: float, tokens: int) -> None:
        """New ids have become text since `start_us` (monotonic microseconds)."""
