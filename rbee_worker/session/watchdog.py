"""A step that never ends: the engine's process is ended, and another takes its place."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rbee_worker.process.host import EngineHost

CHECKS = 8  # in the time that a step may take


class Watchdog:
    """Ends an engine that has requests and is silent for `timeout_s` (0: never).

    An engine tells something in every step, at the latest a quarter of a second after the last
    time, so silence is a step that goes on.
    """

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._heard = 0

    def heard(self) -> None:
        """The engine has told something."""
        self._heard += 1

    @contextmanager
    def over(self, host: EngineHost, busy: Callable[[], bool]) -> Iterator[None]:
        """Inside, a step of the engine that takes too long is its last. busy: it has requests."""
        if not self._timeout_s:
            yield
            return
        watch = asyncio.create_task(self._watch(host, busy), name="engine-watchdog")
        try:
            yield
        finally:
            watch.cancel()

    async def _watch(self, host: EngineHost, busy: Callable[[], bool]) -> None:
        before, since = self._heard, time.monotonic()
        while True:
            await asyncio.sleep(self._timeout_s / CHECKS)
            now = time.monotonic()
            if not busy() or self._heard != before:
                before, since = self._heard, now
            elif now - since >= self._timeout_s:
                host.kill(f"a step took longer than {self._timeout_s:g} s")
                return
