"""A child process for work that is not trusted, and its two pipes.

The child is a script that confines itself (`render_child.serve`) and answers frames: 4 bytes of
length (big endian), then a JSON object; with "attached": n in it, n bytes follow. What is too much
work ends the child and is told of whoever asked for it. A child that somebody else has killed or
stopped says nothing about the work: another one is asked.
"""

from __future__ import annotations

import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from rbee_worker.errors import InferenceFailed
from rbee_worker.extras import need
from rbee_worker.machine import is_stopped

_HEADER = struct.Struct(">I")
_START_S = 60.0  # enough for a loaded machine; an idle one takes 0.1 s
_TRIES = 3  # processes that are asked where each was ended by somebody else


class TooMuch(Exception):
    """Work took more than a process may take. limit: of what."""

    def __init__(self, limit: Literal["wall time", "processor time", "memory"]) -> None:
        super().__init__(limit)
        self.limit = limit


class NotStarted(InferenceFailed):
    """A process has ended before it could answer. status: its exit status, or minus a signal."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


class Confined:
    """Runs `script` in one process at a time: started when it is first needed, and again when it is
    gone. Only `interrupt` may be called while another thread asks.

    modules, limits, what: as for `ConfinedProcess`.
    """

    def __init__(
        self, script: Path, *, modules: Sequence[str], limits: Sequence[str], what: str
    ) -> None:
        self._make = partial(ConfinedProcess, script, modules=modules, limits=limits, what=what)
        self._process: ConfinedProcess | None = None
        self._interrupts = 0
        self._what = what

    def ask(
        self, frames: Callable[[bool], Sequence[bytes]], wall_s: float, attached: bytes = b""
    ) -> dict[str, Any]:
        """The answer to the last of `frames`, which it is given for a process that is new (True) or
        not. attached: goes with the last one. Raises TooMuch, InferenceFailed."""
        before = self._interrupts
        for left in reversed(range(_TRIES)):
            if self._interrupts != before:
                raise InferenceFailed(f"the {self._what} process was ended.")
            try:
                process, new = self._running()
            except NotStarted as error:
                if error.status == -signal.SIGKILL and left:
                    continue
                raise
            try:
                *first, last = frames(new)
                for frame in first:
                    process.ask(frame, wall_s)
                return process.ask(last, wall_s, attached)
            except TimeoutError:
                others, limit = process.stopped, TooMuch("wall time")
                self.close()
            except (OSError, EOFError):
                status = self.close()
                others = status == -signal.SIGKILL
                limit = TooMuch("processor time" if status == -signal.SIGPROF else "memory")
            if not (others and left):
                raise limit
        raise AssertionError("the last try has returned or raised")

    def _running(self) -> tuple[ConfinedProcess, bool]:
        """The process, and whether it is new."""
        if self._process is not None and self._process.alive:
            return self._process, False
        self.close()
        self._process = self._make()
        self._reaper = weakref.finalize(self, self._process.kill)
        try:
            self._process.begun()
        except NotStarted:
            self.close()
            raise
        return self._process, True

    def interrupt(self) -> None:
        """End the process at once, whatever it does: who waits for its answer gets
        InferenceFailed."""
        self._interrupts += 1
        if (process := self._process) is not None:
            process.end()

    def close(self) -> int | None:
        """End the process, if there is one; returns its exit status."""
        if self._process is None:
            return None
        process, self._process = self._process, None
        self._reaper.detach()
        return process.kill()

    @property
    def pid(self) -> int | None:
        """Of the process that runs."""
        return None if self._process is None else self._process.pid


class ConfinedProcess:
    """One process that runs `script`, given the places of `modules` and then `limits`. what: its
    name in errors.

    Raises InferenceFailed if there can be none.
    """

    def __init__(
        self, script: Path, *, modules: Sequence[str], limits: Sequence[str], what: str
    ) -> None:
        need(*modules)
        # The child runs isolated from the environment, so it is told where its modules are.
        specs = [find_spec(name) for name in modules]
        paths = {str(Path(s.origin).parents[1]) for s in specs if s is not None and s.origin}
        # Templates may write the date, in the time zone of the worker.
        zone = {name: os.environ[name] for name in ("TZ",) if name in os.environ}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(script), *sorted(paths), *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=zone,
                bufsize=0,
            )
        except OSError as e:
            raise InferenceFailed(f"the {what} process cannot start: {e.strerror}") from e
        self._what = what

    def begun(self) -> None:
        """Wait until it can be asked. Raises NotStarted."""
        try:
            self._frame(time.monotonic() + _START_S)
        except (OSError, EOFError) as e:  # TimeoutError is an OSError
            status = self.kill()
            said = f"the {self._what} process did not start (exit status {status})"
            raise NotStarted(said, status) from e

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    @property
    def stopped(self) -> bool:
        """Whether somebody has stopped it (SIGSTOP, a debugger)."""
        return is_stopped(self.pid)

    def ask(self, body: bytes, wall_s: float, attached: bytes = b"") -> dict[str, Any]:
        """Send one frame and wait for its answer. attached: bytes whose number `body` has; those of
        the answer take their number's place in it. Raises TimeoutError, OSError, EOFError."""
        until = time.monotonic() + wall_s
        assert self._process.stdin is not None
        for part in (_HEADER.pack(len(body)) + body, attached):
            left = memoryview(part)
            while left:
                left = left[self._process.stdin.write(left) or 0 :]
        return self._frame(until)

    def _frame(self, until: float) -> dict[str, Any]:
        (size,) = _HEADER.unpack(self._receive(_HEADER.size, until))
        answer: dict[str, Any] = json.loads(self._receive(size, until))
        if "attached" in answer:
            answer["attached"] = self._receive(answer["attached"], until)
        return answer

    def _receive(self, size: int, until: float) -> bytes:
        pipe = self._process.stdout
        assert pipe is not None
        parts: list[bytes] = []
        while size:
            ready, _, _ = select.select([pipe], [], [], max(0.0, until - time.monotonic()))
            if not ready:
                raise TimeoutError
            part = pipe.read(min(size, 1 << 20))
            if not part:
                raise EOFError
            parts.append(part)
            size -= len(part)
        return b"".join(parts)

    def end(self) -> None:
        """Kill it; who reads its answer finds the end."""
        self._process.kill()

    def kill(self) -> int:
        """Close its pipes, and end it if it still runs; returns its exit status, negative for a
        signal."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            return self._process.wait(0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
