"""The engine's process, seen from its parent: started, claimed by a client, or ended.

A command may know that it will need an engine before it knows anything else. `early` then starts
the process, whose imports take longest, and `claim` hands it over. Imports almost nothing.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

from rbee_worker.kept_memory import KeptMemory

MODULE = "rbee_worker.process.main"


@dataclass(frozen=True)
class Child:
    """A process, our end of its link, and the memory that those after it will have too."""

    process: subprocess.Popen[bytes]
    link: socket.socket
    kept: KeptMemory | None

    def end(self) -> None:
        """Close the link and wait until the process is gone."""
        self.link.close()
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


_EARLY: ContextVar[list[Child]] = ContextVar("rbee_early_engine")


def spawn(module: str = MODULE, kept: KeptMemory | None = None) -> Child:
    """Start a process that runs `module`; it exits when its link is closed. kept: the memory of the
    process before it."""
    ours, theirs = socket.socketpair()
    kept = kept or KeptMemory.create()
    passed = [theirs.fileno(), *([] if kept is None else [kept.fd])]
    # SIGINT must not meet the imports of the new process, which unblocks it once it is ignored.
    held = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    with theirs:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", module, *map(str, passed)],
                pass_fds=passed,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,  # stdout belongs to the worker
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, held)
    return Child(process, ours, kept)


@contextmanager
def early(wanted: bool) -> Iterator[None]:
    """Inside the block, an engine is starting if `wanted`; if nobody claims it, it is ended."""
    waiting = [spawn()] if wanted else []
    mark = _EARLY.set(waiting)
    try:
        yield
    finally:
        _EARLY.reset(mark)
        for unclaimed in waiting:
            unclaimed.end()


def claim(module: str = MODULE, kept: KeptMemory | None = None) -> Child:
    """The process that was started early, or else a new one."""
    waiting = _EARLY.get([])
    return waiting.pop() if waiting and module == MODULE else spawn(module, kept)
