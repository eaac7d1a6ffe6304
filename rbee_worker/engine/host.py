"""Where an engine runs: its own process, or a thread of this one (tests, small tools).

Either way it is behind the same link and runs the same loop (engine/process.py).
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from rbee_worker.engine.link import Link, Port, socket_pair
from rbee_worker.engine.messages import Shutdown

if TYPE_CHECKING:
    from rbee_worker.engine.process import Loader

PATIENCE_S = 5.0  # what an engine gets to leave by itself
_TAIL_LINES = 12
_LINE_CHARS = 300


class EngineHost(ABC):
    """Starts one engine, says why it is gone, ends it. `link` exists after `start`."""

    link: Link

    @abstractmethod
    async def start(self) -> None: ...

    @abstractmethod
    async def last_words(self) -> str:
        """Why the engine is gone; asked when the link has closed."""

    @abstractmethod
    async def close(self, *, patient: bool = True) -> None:
        """Ask it to leave, make it leave, hang up. May be called at any time, also twice.

        patient: False where it has nothing to finish, e.g. while it loads: a process is ended.
        """


# Threads of torch wait asleep, not spinning: on a machine that has other work, two spinning threads
# wait for each other's turn at every product, and a token takes seconds.
THREADS = {"OMP_WAIT_POLICY": "passive"}


class ProcessHost(EngineHost):
    """A child process. Its stderr is passed on, and its last lines are kept for the post-mortem."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._pump: asyncio.Task[None] | None = None

    async def start(self) -> None:
        ours, theirs = socket_pair()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "rbee_worker.engine.process",
                str(theirs.fileno()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_fileno(sys.stderr) else None,
                stderr=asyncio.subprocess.PIPE,
                env={**THREADS, **os.environ},
            )
        except BaseException:
            ours.close()
            raise
        finally:
            theirs.close()
        self.link = await Link.over(ours)
        self._pump = asyncio.create_task(self._pass_on(), name="engine-stderr")

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return None if self._process is None else self._process.pid

    async def last_words(self) -> str:
        assert self._process is not None
        try:
            code = await asyncio.wait_for(self._process.wait(), PATIENCE_S)
        except TimeoutError:
            return "it closed its link but still runs"
        if self._pump is not None:
            await self._pump
        how = f"exit status {code}"
        if code < 0:
            with suppress(ValueError):
                how = f"killed by {signal.Signals(-code).name}"
        return f"{how}; its last line: {self._tail[-1]}" if self._tail else how

    async def close(self, *, patient: bool = True) -> None:
        if self._process is None:
            return
        self.link.send(Shutdown())
        try:
            await asyncio.wait_for(self._process.wait(), PATIENCE_S if patient else 0)
        except TimeoutError:
            with suppress(ProcessLookupError):  # it left by itself at this very moment
                self._process.kill()
            await self._process.wait()
        await self.link.close()
        if self._pump is not None:
            await self._pump

    async def _pass_on(self) -> None:
        assert self._process is not None
        stream = self._process.stderr
        assert stream is not None
        rest = b""
        while block := await stream.read(1 << 16):
            sys.stderr.write(block.decode(errors="replace"))
            sys.stderr.flush()
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                if line.strip():
                    self._tail.append(line.decode(errors="replace").strip()[:_LINE_CHARS])
        if rest.strip():
            self._tail.append(rest.decode(errors="replace").strip()[:_LINE_CHARS])


class ThreadHost(EngineHost):
    """A thread of this process. `load` stands in for the real loader."""

    def __init__(self, load: Loader | None = None) -> None:
        self._load = load
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    async def start(self) -> None:
        ours, theirs = socket_pair()
        self._thread = threading.Thread(
            target=self._run, args=(Port(theirs),), name="engine", daemon=True
        )
        self._thread.start()
        self.link = await Link.over(ours)

    async def last_words(self) -> str:
        await asyncio.to_thread(self._join)
        return "it left" if self._error is None else f"{type(self._error).__name__}: {self._error}"

    async def close(self, *, patient: bool = True) -> None:
        if self._thread is None:
            return
        self.link.send(Shutdown())
        await asyncio.to_thread(self._join)
        await self.link.close()

    def _run(self, port: Port) -> None:
        from rbee_worker.engine.process import serve

        try:
            if self._load is None:
                from rbee_worker.engine.load import load_engine

                self._load = load_engine
            serve(port, self._load)
        except Exception as error:
            self._error = error
        finally:
            port.close()

    def _join(self) -> None:
        assert self._thread is not None
        self._thread.join(PATIENCE_S)


def _has_fileno(stream: object) -> bool:
    """A captured stderr (tests, notebooks) has no descriptor to hand on."""
    try:
        stream.fileno()  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True
