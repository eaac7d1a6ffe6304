"""What `benchmarks.soak` does to a worker that serves, at random, one thing after another."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from benchmarks.live_worker import LiveWorker

STEP_TIMEOUT_S = 15
STOPPED_S = 5.0  # at most: an engine that goes on afterwards
PAUSE_S = (1.0, 5.0)  # between two troubles
JOURNAL_BYTES = 32_000_000  # of the file system that the journal lies on
JUMPS = ("+3600", "-3600", "+86400", "+0")
FAKETIME = (
    Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"),
    Path("/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1"),
)


class Clock:
    """The worker's wall clock, with libfaketime. path: the file that says how far it is off."""

    def __init__(self, library: Path, path: Path) -> None:
        self.path = path
        self.jump("+0")
        self.env = {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(path),
            "FAKETIME_CACHE_DURATION": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "DONT_FAKE_MONOTONIC": "1",
        }

    def jump(self, by: str) -> None:
        self.path.write_text(by + "\n")


class Trouble:
    """counts: how often each was made. recoveries: seconds until the worker was ready again."""

    def __init__(
        self, worker: LiveWorker, dice: random.Random, clock: Clock | None, journal: Path | None
    ) -> None:
        self.worker, self._dice = worker, dice
        self._clock, self._journal = clock, journal
        self.counts: Counter[str] = Counter()
        self.recoveries: list[float] = []

    async def run(self, over: Callable[[], bool], kills: Callable[[], bool]) -> None:
        """Until `over`. kills: whether engines may be ended now."""
        gentle: dict[str, Callable[[], Awaitable[bool]]] = {
            "engine stopped for a while": self._stopped,
            "template or grammar process killed": self._helper,
        }
        if self._clock is not None:
            gentle["clock jumped"] = self._jumped
        if self._journal is not None:
            gentle["journal's disk full"] = self._full
        fatal: dict[str, Callable[[], Awaitable[bool]]] = {
            "engine killed": lambda: self._killed(signal.SIGKILL),
            "engine crashed (SIGSEGV)": lambda: self._killed(signal.SIGSEGV),
            "engine stopped for good": self._hung,
        }
        while not over():
            await asyncio.sleep(self._dice.uniform(*PAUSE_S))
            # most often the one that this is about
            choices = [*gentle, *([*fatal, *["engine killed"] * 3] if kills() else [])]
            name = self._dice.choice(choices)
            with suppress(ProcessLookupError):
                if await (gentle | fatal)[name]():
                    self.counts[name] += 1

    async def once(self) -> None:
        """One engine is lost, so that what the first loss leaves open belongs to the base."""
        await self._killed(signal.SIGKILL)

    async def _killed(self, number: signal.Signals) -> bool:
        engine = self.worker.engine()
        if engine is None:
            return False
        loop = asyncio.get_running_loop()
        before = await self.restarts()
        os.kill(engine, number)
        since = loop.time()
        while await self.restarts() == before or not await self.worker.ready():
            await asyncio.sleep(0.05)
        self.recoveries.append(loop.time() - since)
        return True

    async def restarts(self) -> float:
        """Engines that were replaced."""
        return (await self.worker.metrics())["rbee_engine_restarts_total"]

    async def _stopped(self) -> bool:
        engine = self.worker.engine()
        if engine is None:
            return False
        os.kill(engine, signal.SIGSTOP)
        await asyncio.sleep(self._dice.uniform(0.1, STOPPED_S))
        os.kill(engine, signal.SIGCONT)
        return True

    async def _hung(self) -> bool:
        """It never goes on: the watchdog must end it."""
        engine = self.worker.engine()
        if engine is None:
            return False
        os.kill(engine, signal.SIGSTOP)
        while self.worker.engine() == engine or not await self.worker.ready():
            await asyncio.sleep(0.1)
        return True

    async def _helper(self) -> bool:
        helpers = self.worker.helpers()
        if helpers:
            os.kill(self._dice.choice(helpers), signal.SIGKILL)
        return bool(helpers)

    async def _jumped(self) -> bool:
        assert self._clock is not None
        self._clock.jump(self._dice.choice(JUMPS))
        return True

    async def _full(self) -> bool:
        """Nothing more can be written for some seconds."""
        assert self._journal is not None
        ballast = self._journal / "ballast"
        with suppress(OSError), ballast.open("wb") as file:
            while True:
                file.write(bytes(4096))
                file.flush()
        await asyncio.sleep(self._dice.uniform(1, 5))
        ballast.unlink()
        return True


def clock(folder: Path) -> Clock | None:
    """A clock that can jump, where libfaketime is installed."""
    library = next((path for path in FAKETIME if path.exists()), None)
    return None if library is None else Clock(library, folder / "clock")


@asynccontextmanager
async def small_disk() -> AsyncIterator[Path | None]:
    """A folder on a file system of its own that is easily full; None where it cannot be made."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["mount", "-t", "tmpfs", "-o", f"size={JOURNAL_BYTES}", "tmpfs", folder]
        mounted = os.geteuid() == 0 and subprocess.run(command, capture_output=True).returncode == 0
        try:
            yield Path(folder) if mounted else None
        finally:
            if mounted:
                subprocess.run(["umount", folder], check=False)
