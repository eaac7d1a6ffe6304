"""What `benchmarks.soak` does to a worker that serves, at random, one thing after another.

Each trouble waits until it has had its effect, and until the worker has got over it: nothing here
depends on how fast the machine is.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from benchmarks.live_worker import LiveWorker

STEP_TIMEOUT_S = 15
STOPPED_S = 3.0  # at most, after the worker has noticed: an engine that goes on afterwards
PAUSE_S = (1.0, 5.0)  # between two troubles
# Of the file system that the journal lies on: much more than the journal can need, or it would be
# full without our doing.
JOURNAL_BYTES = 64_000_000
WAL_HEADER, FRAME_HEADER = 32, 24  # bytes of SQLite's write-ahead log (its file format, section 4)
# What the worker takes for the reason of an engine's end, by the trouble that ended it.
LOSSES = {
    "engine killed": "killed",
    "engine crashed (SIGSEGV)": "crashed",
    "engine stopped for good": "stopped",
}
JUMPS = ("+3600", "-3600", "+86400", "+0")  # seconds
CLOSE_S = 600.0  # of a time: what a slow machine needs for one answer is less
TEMPLATES, GRAMMARS = "render_child.py", "constraint_child.py"  # what those processes run
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
        self.by = by
        self.path.write_text(by + "\n")


class Trouble:
    """counts: how often each was made, and had its effect; calm_counts: those of them since engines
    are not ended any more; warm_counts: those before, in `once`. recoveries: seconds until the
    worker was ready again. current: the one made last."""

    def __init__(
        self, worker: LiveWorker, dice: random.Random, clock: Clock | None, journal: Path | None
    ) -> None:
        self.worker, self._dice = worker, dice
        self._clock, self._journal = clock, journal
        self.recoveries: list[float] = []
        self.current = ""
        self._gentle: dict[str, Callable[[], Awaitable[bool]]] = {
            "engine stopped for a while": self._stopped,
            "template process killed": lambda: self._helper(TEMPLATES),
            "grammar process killed": lambda: self._helper(GRAMMARS),
        }
        if clock is not None:
            self._gentle["clock jumped"] = self._jumped
        if journal is not None:
            self._gentle["journal's disk full"] = self._full
        self._fatal: dict[str, Callable[[], Awaitable[bool]]] = {
            "engine killed": lambda: self._killed(signal.SIGKILL),
            "engine crashed (SIGSEGV)": lambda: self._killed(signal.SIGSEGV),
            "engine stopped for good": self._hung,
        }
        self.counts: Counter[str] = Counter(dict.fromkeys([*self._gentle, *self._fatal], 0))
        self.calm_counts: Counter[str] = Counter(dict.fromkeys(self._gentle, 0))
        self.warm_counts: Counter[str] = Counter()

    async def run(self, over: Callable[[], bool], kills: Callable[[], bool]) -> None:
        """Until `over`. kills: whether engines may be ended now. Each trouble comes once in a round
        of all of them, in any order, the one that this is about more often."""
        left: list[str] = []
        while not over():
            await asyncio.sleep(self._dice.uniform(*PAUSE_S))
            if not left:
                left = [*self._gentle, *([*self._fatal, "engine killed"] if kills() else [])]
                self._dice.shuffle(left)
            name, fatal = left.pop(), kills()
            if name in self._gentle or fatal:
                self.current = name
                with suppress(ProcessLookupError):  # it has ended by itself
                    done = await (self._gentle | self._fatal)[name]()
                    self.counts[name] += done
                    if not fatal:
                        self.calm_counts[name] += done

    def missing(self) -> list[str]:
        """Troubles that have not been made yet."""
        return [name for name, count in self.counts.items() if count == 0]

    def missing_in_calm(self) -> list[str]:
        """Those that have not been made since engines are not ended any more."""
        return [f"{name}, at last" for name, count in self.calm_counts.items() if count == 0]

    async def once(self) -> None:
        """Each once, so that what the first one leaves open belongs to the base."""
        for name, make in (self._gentle | self._fatal).items():
            self.current, done = name, False
            while not done:
                await asyncio.sleep(0.2)
                with suppress(ProcessLookupError):
                    done = await make()
            self.warm_counts[name] += 1

    def ended(self) -> Counter[str]:
        """Engines that were ended, by the reason for which the worker lost them."""
        made = self.counts + self.warm_counts
        return Counter({reason: made[name] for name, reason in LOSSES.items()})

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
        await self._going_on()
        return True

    async def _going_on(self) -> None:
        """Wait for a request that came after all that waited for the new engine: they have gone on
        too, however slow this machine is. One that never gets a token may be the reason of all
        crashes, for all that a worker can know."""
        asked = {"prompt": "One", "max_tokens": 3, "ignore_eos": True}
        while not (await self.worker.http.post("/v1/infer", json=asked)).is_success:
            await asyncio.sleep(0.2)

    async def restarts(self) -> float:
        """Engines that were replaced."""
        return (await self.worker.metrics())["rbee_engine_restarts_total"]

    async def _stopped(self) -> bool:
        engine = self.worker.engine()
        if engine is None:
            return False
        os.kill(engine, signal.SIGSTOP)
        try:
            while await self.worker.ready():  # until the worker says that it is not
                await asyncio.sleep(0.05)
            await asyncio.sleep(self._dice.uniform(0.1, STOPPED_S))
        finally:
            os.kill(engine, signal.SIGCONT)
        return True

    async def _hung(self) -> bool:
        """It never goes on: the watchdog must end it."""
        engine = self.worker.engine()
        if engine is None:
            return False
        while self.worker.engine() == engine:
            with suppress(ProcessLookupError):
                os.kill(engine, signal.SIGSTOP)  # again: a shell that ends continues what it began
            await asyncio.sleep(0.1)
        while not await self.worker.ready():
            await asyncio.sleep(0.1)
        await self._going_on()
        return True

    async def _helper(self, script: str) -> bool:
        helpers = self.worker.helpers(script)
        for pid in helpers:
            os.kill(pid, signal.SIGKILL)
        return bool(helpers)

    async def _jumped(self) -> bool:
        """Until an answer has the new time."""
        assert self._clock is not None
        by = self._dice.choice([jump for jump in JUMPS if jump != self._clock.by])
        self._clock.jump(by)
        asked = {"prompt": "One", "max_tokens": 1}
        while True:
            response = await self.worker.http.post("/v1/completions", json=asked)
            if response.is_success:
                off = response.json()["created"] - time.time() - int(by)
                if abs(off) < CLOSE_S:
                    return True
            await asyncio.sleep(0.5)

    async def _full(self) -> bool:
        """Until the journal has noticed, and until it is written again."""
        assert self._journal is not None
        ballast = self._journal / "ballast"
        asked = {"prompt": "One", "max_tokens": 1}
        try:
            while await self._written():
                os.kill(self.worker.pid, signal.SIGSTOP)
                try:
                    cut_log(self._journal)
                    fill(ballast)
                finally:
                    os.kill(self.worker.pid, signal.SIGCONT)
                await self.worker.http.post("/v1/jobs", json=asked)
                await asyncio.sleep(0.1)
            await asyncio.sleep(self._dice.uniform(1, 5))
        finally:
            ballast.unlink(missing_ok=True)
        while not await self._written():
            await asyncio.sleep(0.2)
        return True

    async def _written(self) -> bool:
        return (await self.worker.metrics())["rbee_journal_working"] == 1


def cut_log(journal: Path) -> None:
    """Take from the journal's write-ahead log the room that it does not use just now, while its
    process is stopped. SQLite goes on in that room, so that a full disk would be noticed by large
    jobs alone; and these are kept in the worker's memory, which is to be judged.

    Frames from the first one on that is not of the log's present turn (it has other salts) are what
    an earlier turn has left.
    """
    for path in journal.glob("*-wal"):
        with path.open("r+b") as log:
            head = log.read(WAL_HEADER)
            if len(head) < WAL_HEADER:
                continue
            frame = FRAME_HEADER + int.from_bytes(head[8:12], "big")
            end = WAL_HEADER
            while (told := log.read(frame)) and told[8:16] == head[16:24]:
                end += frame
            log.truncate(end)


def fill(ballast: Path) -> None:
    """Write to a file until its file system is full."""
    with suppress(OSError), ballast.open("ab", buffering=0) as file:
        while True:
            file.write(bytes(4096))


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
