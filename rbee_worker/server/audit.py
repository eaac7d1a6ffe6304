"""`Audit`: who asked for what, one JSON object a line, without a word of prompts or answers.

    {"time", "event": "request", "token", "peer", "method", "path", "status", "ms", ..}
    {"time", "event": "job", "token", "job_id", "prompt_tokens", "output_tokens", "stop", ..}

A thread writes, so that a slow disk delays nobody.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from datetime import UTC, datetime
from typing import Any

import msgspec

from rbee_worker.errors import UsageError, one_line
from rbee_worker.observe.log import fields, logger
from rbee_worker.observe.opening import opened

STDERR = "-"
_MOST_LINES = 10_000  # that wait; more are counted and dropped
_LONGEST = 256  # characters of a path
_CLOSE_S = 5.0

log = logger("audit")


class Audit:
    """Appends to the file `path` (mode 0600), or to stderr for "-"."""

    def __init__(self, path: str) -> None:
        """Raises UsageError if the file cannot be opened."""
        self._path = path
        self._file = self._opened()
        self._lines: queue.Queue[bytes | None] = queue.Queue(_MOST_LINES)
        self._dropped = 0
        self._failing = False
        self._reopen = False
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def _opened(self) -> int:
        if self._path == STDERR:
            return sys.stderr.fileno()
        fix = "give a path that can be written, or - for stderr."
        return opened("--audit-log", self._path, os.O_APPEND, mode=0o600, fix=fix)

    def request(self, *, path: str, **values: Any) -> None:
        """A request was answered."""
        self._put("request", {**values, "path": one_line(path, _LONGEST)})

    def job(self, **values: Any) -> None:
        """Work of the engine has ended."""
        self._put("job", values)

    def note(self, event: str, **values: Any) -> None:
        """Something changed for whoever may call."""
        self._put(event, values)

    def reload(self) -> None:
        """Open the file anew: it was renamed."""
        self._reopen = True

    def _put(self, event: str, values: dict[str, Any]) -> None:
        now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
        line = msgspec.json.encode({"time": now, "event": event, **values}) + b"\n"
        try:
            self._lines.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def close(self) -> None:
        """Write what is there, and end."""
        self._lines.put(None)
        self._thread.join(_CLOSE_S)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                if self._reopen:
                    self._reopen = False
                    before, self._file = self._file, self._opened()
                    if before != self._file and self._path != STDERR:
                        os.close(before)
                if self._dropped:
                    dropped, self._dropped = self._dropped, 0
                    os.write(self._file, b'{"event":"dropped","lines":%d}\n' % dropped)
                os.write(self._file, line)
                self._failing = False
            except (OSError, UsageError) as error:
                if not self._failing:
                    self._failing = True
                    log.error("cannot be written", extra=fields(reason=str(error)))
