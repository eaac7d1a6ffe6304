"""Engines that are killed in the middle of an answer, which they cannot finish before."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_worker.process.host import EngineHost, ProcessHost
from rbee_worker.session.watchdog import Watchdog
from tests.patience import LIMIT_S

MODULE = "tests.process.held_engine"
PROGRAM = "tests.process.held_program"  # a command with such engines
VARIABLE = "RBEE_TEST_HELD"
TOKENS = 20  # of one answer, before it waits
_GONE, _STOPPED = ("Z", "X"), ("T", "t")


class Hold:
    """While it is set, an engine of `MODULE` makes so many tokens of each answer, those of earlier
    engines among them, and waits; it still takes what it is told."""

    def __init__(self, file: Path) -> None:
        self._file = file

    @property
    def env(self) -> dict[str, str]:
        """What a process needs whose engines are to be held."""
        return {VARIABLE: str(self._file)}

    def set(self, tokens: int = TOKENS) -> None:
        written = self._file.with_suffix(".new")
        written.write_text(str(tokens))
        written.replace(self._file)

    def release(self) -> None:
        self._file.unlink(missing_ok=True)

    def starts(self, go: bool) -> None:
        """Whether engines may start."""
        mark = Path(f"{self._file}.start")
        mark.unlink(missing_ok=True) if go else mark.touch()

    def kill(self, pid: int, number: int = signal.SIGKILL, *, then: int = 0) -> None:
        """Send a signal, wait until the process does nothing any more, and let whatever engine
        runs after it go on: to `then` tokens of each answer, or to the end (0)."""
        os.kill(pid, number)
        wait_for_state(pid, _GONE if number == signal.SIGKILL else _STOPPED + _GONE)
        if then:
            self.set(then)
        else:
            self.release()


def watch_only(monkeypatch: pytest.MonkeyPatch, whom: Callable[[], list[int]]) -> None:
    """Let watchdogs look at no engine that is not among the processes of `whom`: one that stands
    still because the machine has other work is not ended."""
    watch = Watchdog._watch

    async def patient(
        dog: Watchdog, host: EngineHost, timeout_s: float, busy: Callable[[], bool]
    ) -> None:
        assert isinstance(host, ProcessHost)
        while host.pid not in whom():
            await asyncio.sleep(0.005)
        await watch(dog, host, timeout_s, busy)

    monkeypatch.setattr(Watchdog, "_watch", patient)


def wait_for_state(pid: int, states: tuple[str, ...]) -> None:
    """Until a process is in one of `states`, as /proc names them, or is no more."""
    until = time.monotonic() + LIMIT_S
    while (state := state_of(pid)) and state not in states:
        assert time.monotonic() < until, f"the process is in state {state}"
        time.sleep(0.001)


def state_of(pid: int) -> str:
    """One letter; "" if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


@pytest.fixture
def hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hold:
    made = Hold(tmp_path / "held")
    for name, value in made.env.items():
        monkeypatch.setenv(name, value)
    return made
