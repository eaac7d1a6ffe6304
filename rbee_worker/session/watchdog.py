"""An engine that no longer answers, and a step that never ends.

The engine's reading thread answers every `Ping`, also in the middle of a step. A process that was
stopped, or is kept from running, does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rbee_worker.engine.messages import Output, Ping, Pong
from rbee_worker.model_info import Loss
from rbee_worker.process.host import EngineHost

SILENT_S = 1.2  # without a word: the engine counts as stopped, so nothing new is given to it
CHECK_S = 0.4
LOADING_S = 60.0  # at least: reading files may keep the engine's threads from answering
_CHECKS = 8  # at least, in the time that a step may take


class Watchdog:
    """Asks the engine whether it is there, and ends one that is silent, or in one step, for
    `timeout_s` (0: never).

    silent: the engine has not answered for `SILENT_S`. What counts is how often it was asked in
    vain: a clock that jumps, or a client that was itself stopped, makes no engine silent. Nor does
    it make a step long: that is as long as the engine says, and not longer than the client has
    seen of it.
    """

    def __init__(self, timeout_s: float, told: Callable[[bool], None]) -> None:
        """told: called with `silent` whenever that changes."""
        self.silent = False
        self._timeout_s = timeout_s
        self._told = told
        self._heard = False
        self._step_s = 0.0  # how long the engine was in its step when it last said so

    def heard(self, outputs: Sequence[Output]) -> None:
        """The engine has told something."""
        self._heard = True
        first = outputs[0] if outputs else None
        self._step_s = first.step_s if isinstance(first, Pong) else 0.0
        self._now(silent=False)

    @contextmanager
    def over(self, host: EngineHost, busy: Callable[[], bool]) -> Iterator[None]:
        """Watch the engine of `host` inside the block. busy: it has requests."""
        with self._watching(host, self._timeout_s, busy):
            yield

    @contextmanager
    def over_loading(self, host: EngineHost) -> Iterator[None]:
        """Watch an engine that loads its model: it has no steps, and more time to answer."""
        timeout_s = max(self._timeout_s, LOADING_S) if self._timeout_s else 0.0
        with self._watching(host, timeout_s, lambda: False):
            yield

    @contextmanager
    def _watching(
        self, host: EngineHost, timeout_s: float, busy: Callable[[], bool]
    ) -> Iterator[None]:
        watch = asyncio.create_task(self._watch(host, timeout_s, busy), name="engine-watchdog")
        try:
            yield
        finally:
            watch.cancel()
            self.silent = False

    async def _watch(self, host: EngineHost, timeout_s: float, busy: Callable[[], bool]) -> None:
        every_s = min(CHECK_S, timeout_s / _CHECKS) if timeout_s else CHECK_S
        quiet = 0  # checks in a row without a word
        seen, step_s = 0, 0.0  # checks in a row that found it in one step; and how long that was
        self._heard, self._step_s = False, 0.0
        while True:
            if host.open:
                host.link.send(Ping())
            await asyncio.sleep(every_s)
            if self._heard:
                seen = seen + 1 if self._step_s > step_s else int(self._step_s > 0)
                step_s = self._step_s
            quiet = 0 if self._heard or not host.open else quiet + 1
            self._heard = False
            self._now(silent=quiet * every_s >= SILENT_S)
            in_step_s, silent_s = min(step_s, (seen + 1) * every_s), quiet * every_s
            if 0 < timeout_s <= in_step_s + silent_s:
                what = "a step took" if busy() else "it did not answer for"
                loss: Loss = "silent" if silent_s > in_step_s else "step"
                host.kill(f"{what} longer than {timeout_s:g} s", loss)
                return

    def _now(self, *, silent: bool) -> None:
        if silent != self.silent:
            self.silent = silent
            self._told(silent)
