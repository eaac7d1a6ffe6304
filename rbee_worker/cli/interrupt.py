"""Ctrl-C during an answer: the first ends the answer, the next ends the command."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager


class Interrupt:
    """Handles Ctrl-C. `pressed`: whether the user asked to end an answer."""

    def __init__(self) -> None:
        self.pressed = False
        self._stop: Callable[[], Awaitable[None]] | None = None
        self._pending: asyncio.Task[None] | None = None

    @contextmanager
    def watch(self) -> Iterator[None]:
        """Handle SIGINT for the running task, and restore the old handler at the end."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        loop.add_signal_handler(signal.SIGINT, self._press, task)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)

    @contextmanager
    def ends(self, stop: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """Inside the block, the first Ctrl-C awaits `stop()` instead of cancelling the task."""
        self.pressed, self._stop = False, stop
        try:
            yield
        finally:
            self._stop = None

    def _press(self, task: asyncio.Task[object]) -> None:
        if self._stop is None or self.pressed:
            task.cancel()
            return
        self.pressed = True
        self._pending = asyncio.ensure_future(_run(self._stop))


async def _run(stop: Callable[[], Awaitable[None]]) -> None:
    await stop()
