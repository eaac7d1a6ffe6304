"""The child process of `ChatRenderer` and its two pipes; it runs `render_child`."""

from __future__ import annotations

import json
import os
import select
import struct
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from rbee_worker.errors import InferenceFailed
from rbee_worker.extras import need

_HEADER = struct.Struct(">I")
_SCRIPT = Path(__file__).with_name("render_child.py")
_START_S = 60.0  # enough for a loaded machine; an idle one takes 0.1 s


class RenderProcess:
    """One process. limits: processor seconds, bytes of memory, characters, as strings.

    Raises InferenceFailed if it cannot start.
    """

    def __init__(self, limits: tuple[str, ...]) -> None:
        need("jinja2", "markupsafe")
        # Paths of jinja2 and markupsafe for the child, which runs isolated from the environment.
        specs = [find_spec(name) for name in ("jinja2", "markupsafe")]
        paths = {str(Path(s.origin).parents[1]) for s in specs if s is not None and s.origin}
        # Templates may write the date, in the time zone of the worker.
        zone = {name: os.environ[name] for name in ("TZ",) if name in os.environ}
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(_SCRIPT), *sorted(paths), *limits],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=zone,
                bufsize=0,
            )
        except OSError as e:
            raise InferenceFailed(f"the chat template process cannot start: {e.strerror}") from e
        try:
            self._frame(time.monotonic() + _START_S)
        except (OSError, EOFError) as e:  # TimeoutError is an OSError
            raise InferenceFailed(
                f"the chat template process did not start (exit status {self.kill()})"
            ) from e

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def ask(self, body: bytes, wall_s: float) -> dict[str, str]:
        """Send one frame and wait for its answer. Raises TimeoutError, OSError, EOFError."""
        until = time.monotonic() + wall_s
        assert self._process.stdin is not None
        frame = memoryview(_HEADER.pack(len(body)) + body)
        while frame:
            frame = frame[self._process.stdin.write(frame) or 0 :]
        return self._frame(until)

    def _frame(self, until: float) -> dict[str, str]:
        (size,) = _HEADER.unpack(self._receive(_HEADER.size, until))
        answer: dict[str, str] = json.loads(self._receive(size, until))
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
