"""Where an engine runs: in its own process, or in a thread of this one (tests, small tools).

Either way it has the same link and runs the same loop (process/main.py).
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import subprocess
import sys
import threading
from abc import ABC, abstractmethod
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from rbee_worker.kept_memory import KeptMemory
from rbee_worker.machine import is_stopped, killed_for_memory
from rbee_worker.model_info import Loss
from rbee_worker.process import child
from rbee_worker.process.link import Link, socket_pair
from rbee_worker.process.port import Port

if TYPE_CHECKING:
    from rbee_worker.process.main import Loader

PATIENCE_S = 5.0  # seconds in which a process that has to exit is gone
CLOSING_S = 1.0  # seconds that an engine gets to exit by itself when its link is closed
log = logging.getLogger(__name__)

_TAIL_LINES = 12
_LINE_CHARS = 300


class EngineHost(ABC):
    """Starts one engine, tells why it is gone, ends it. `link` exists once `start` has begun."""

    link: Link

    def __init__(self) -> None:
        self._busy = asyncio.Lock()  # `close` waits until an engine that is starting has started
        self._open = False

    @property
    def open(self) -> bool:
        """Whether the engine was started and not closed."""
        return self._open

    async def start(self) -> None:
        """Start the engine; returns before it has loaded anything."""
        async with self._busy:
            self.link = await Link.over(await self._spawn())
            self._open = True

    async def close(self, *, patient: bool = True) -> None:
        """Close the link, which makes the engine exit, and wait until it has. Safe to repeat.

        patient: False if it has nothing to finish, for example while it loads: it is killed.
        """
        async with self._busy:
            if self._open:
                self._open = False
                await self.link.close()
                await self._reap(patient)

    @abstractmethod
    def successor(self) -> EngineHost | None:
        """A host, not yet started, for the engine that takes the place of a lost one; None where
        there can be none."""

    @abstractmethod
    def kill(self, why: str, loss: Loss) -> None:
        """End an engine that does not answer, at once; `last_words` gives `why`."""

    @property
    def loss(self) -> Loss:
        """What ended the engine, as far as that can be seen now."""
        return "failed"

    @property
    def killed_by_others(self) -> bool:
        """Whether the engine was ended from outside, for all that can be seen."""
        return False

    @abstractmethod
    async def last_words(self) -> str:
        """Why the engine is gone; called after the link has closed."""

    @abstractmethod
    async def _spawn(self) -> socket.socket:
        """Start running the engine; returns our end of its link."""

    @abstractmethod
    async def _reap(self, patient: bool) -> None: ...


class ProcessHost(EngineHost):
    """A child process that runs `module`. Its stderr is passed on, and its last lines are kept for
    `last_words`."""

    def __init__(self, module: str = child.MODULE, kept: KeptMemory | None = None) -> None:
        """kept: of the process whose place this one takes."""
        super().__init__()
        self._module = module
        self._kept = kept
        self._process: subprocess.Popen[bytes] | None = None
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._pump: asyncio.Task[None] | None = None
        self._killed = ""
        self._hung: Loss = "step"
        self._stopped = False
        self._short_before = killed_for_memory()

    async def _spawn(self) -> socket.socket:
        started = child.claim(self._module, self._kept)
        self._process, self._kept = started.process, started.kept
        assert started.process.stderr is not None
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), started.process.stderr
        )
        self._pump = asyncio.create_task(self._pass_on(reader), name="engine-stderr")
        return started.link

    def successor(self) -> ProcessHost:
        return ProcessHost(self._module, self._kept)

    @property
    def killed_by_others(self) -> bool:
        """By a person, say: with SIGKILL, which no fault sends, or with SIGSTOP until its time was
        over. Where the system has killed for memory meanwhile, the engine and what it ran are taken
        to be the reason."""
        ended = self._process is not None and self._process.poll() == -signal.SIGKILL
        from_outside = self._stopped or not self._killed
        return ended and from_outside and not self._short_of_memory

    @property
    def _short_of_memory(self) -> bool:
        return killed_for_memory() > self._short_before

    def kill(self, why: str, loss: Loss) -> None:
        self._killed, self._hung = why, loss
        if self._process is not None:
            self._stopped = is_stopped(self._process.pid)
            if self._stopped:
                self._killed += ", as its process was stopped"
            self._process.kill()

    @property
    def loss(self) -> Loss:
        if self._killed:
            return "stopped" if self._stopped else self._hung
        code = None if self._process is None else self._process.poll()
        if code is None or code >= 0:
            return "failed"
        if code == -signal.SIGKILL:
            return "memory" if self._short_of_memory else "killed"
        return "crashed"

    @property
    def pid(self) -> int | None:
        """The child's process id."""
        return None if self._process is None else self._process.pid

    async def last_words(self) -> str:
        assert self._process is not None
        try:
            code = await self._end(PATIENCE_S)
        except TimeoutError:
            return "it closed its link but still runs"
        if self._pump is not None:
            await self._pump
        how = self._killed or f"exit status {code}"
        if code < 0 and not self._killed:
            with suppress(ValueError):
                how = f"killed by {signal.Signals(-code).name}"
            if code == -signal.SIGKILL and self._short_of_memory:
                how += ", as memory has run out"
        return f"{how}; its last line: {self._tail[-1]}" if self._tail else how

    async def _reap(self, patient: bool) -> None:
        if self._process is None:
            return
        try:
            await self._end(CLOSING_S if patient else 0)
        except TimeoutError:
            self._process.kill()
            try:
                await self._end(PATIENCE_S)
            except TimeoutError:  # a driver or a file system holds it; it must not hold us too
                log.error("the engine's process %d cannot be ended", self._process.pid)
                return
        if self._pump is not None:
            await self._pump

    async def _end(self, patience_s: float) -> int:
        """The process's exit status. Raises TimeoutError if it does not exit."""
        assert self._process is not None
        try:
            return await asyncio.to_thread(self._process.wait, patience_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError from None

    async def _pass_on(self, stream: asyncio.StreamReader) -> None:
        rest = b""
        while block := await stream.read(1 << 16):
            # its disk is full, its reader has gone, or somebody has closed it
            with suppress(OSError, ValueError):
                sys.stderr.write(block.decode(errors="replace"))
                sys.stderr.flush()
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                if line.strip():
                    self._tail.append(line.decode(errors="replace").strip()[:_LINE_CHARS])
        if rest.strip():
            self._tail.append(rest.decode(errors="replace").strip()[:_LINE_CHARS])


class ThreadHost(EngineHost):
    """A thread of this process. load: replaces the real loader."""

    def __init__(self, load: Loader | None = None) -> None:
        super().__init__()
        self._load = load
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def successor(self) -> None:
        """An engine in this process that failed would fail again: its memory is this process's."""

    def kill(self, why: str, loss: Loss) -> None:
        """A thread cannot be ended."""

    async def last_words(self) -> str:
        await self._reap(patient=True)
        return "it left" if self._error is None else f"{type(self._error).__name__}: {self._error}"

    async def _spawn(self) -> socket.socket:
        ours, theirs = socket_pair()
        self._thread = threading.Thread(
            target=self._run, args=(Port(theirs),), name="engine", daemon=True
        )
        self._thread.start()
        return ours

    async def _reap(self, patient: bool) -> None:
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join, PATIENCE_S)

    def _run(self, port: Port) -> None:
        from rbee_worker.process.main import serve

        try:
            if self._load is None:
                from rbee_worker.loading.load import load_engine

                self._load = load_engine
            serve(port, self._load)
        except Exception as error:
            log.exception("the engine failed")
            self._error = error
        finally:
            port.close()
