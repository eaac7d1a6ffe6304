"""A child process for work that is not trusted, and its two pipes.

The child is a script that confines itself (`render_child.serve`) and answers frames: 4 bytes of
length (big endian), then a JSON object; with "attached": n in it, n bytes follow.
"""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rbee_worker.errors import InferenceFailed
from rbee_worker.extras import need

_HEADER = struct.Struct(">I")
_START_S = 60.0  # enough for a loaded machine; an idle one takes 0.1 s


class ConfinedProcess:
    """One process that runs `script`, given the places of `modules` and then `limits`. what: its
    name in errors.

    Raises InferenceFailed if it cannot start.
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
        try:
            self._frame(time.monotonic() + _START_S)
        except (OSError, EOFError) as e:  # TimeoutError is an OSError
            raise InferenceFailed(
                f"the {what} process did not start (exit status {self.kill()})"
            ) from e

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

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

    def kill(self) -> int:
        """End the process if it still runs; returns its exit status, negative for a signal."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        try:
            return self._process.wait(0.1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return self._process.wait()
