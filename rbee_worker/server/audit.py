"""`Audit`: who asked for what, one JSON object a line, without a word of prompts or answers.

    {"time", "event": "request", "token", "peer", "method", "path", "status", "ms", ..}
    {"time", "event": "job", "token", "job_id", "prompt_tokens", "output_tokens", "stop", ..}
    {"time", "event": "dropped", "lines"}

A thread writes, so that a slow disk delays nobody. What is lost is counted, and told in the file as
soon as a line can be written again.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import time
from contextlib import suppress
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
        # Lines that were lost: that found no place in the queue, that were not written, and those
        # of both that the file tells of.
        self._crowded = self._unwritten = self._told = 0
        self._failing: set[str] = set()  # why it cannot be done now; the log has said so
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
        try:
            self._lines.put_nowait(_line(event, values))
        except queue.Full:
            self._crowded += 1

    def close(self) -> None:
        """Write what is there, and end; a disk that hangs delays it by a few seconds at most."""
        with suppress(queue.Full):
            self._lines.put(None, timeout=_CLOSE_S)
        self._thread.join(_CLOSE_S)

    # ---- the thread

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            self._open_anew()
            self._write(line, 1)
        self._write(b"", 0)

    def _open_anew(self) -> None:
        """If it is wanted. Where that fails, the file that was open stays, and the next line tries
        again."""
        if not self._reopen:
            return
        try:
            before, self._file = self._file, self._opened()
        except UsageError as error:
            self._tell(f"it cannot be opened anew: {error}")
            return
        self._reopen = False
        if self._path != STDERR:
            os.close(before)

    def _write(self, line: bytes, lines: int) -> None:
        """Append `line`, after one that says how many are missing before it. lines: in `line`."""
        lost = self._crowded + self._unwritten
        if missing := lost - self._told:
            line = _line("dropped", {"lines": missing}) + line
        try:
            self._append(line)
        except OSError as error:
            self._unwritten += lines
            self._tell(str(error))
        else:
            self._told = lost
            if not self._reopen:
                self._failing.clear()

    def _append(self, data: bytes) -> None:
        """All of `data`, or (in a file of its own) nothing: half a line is not JSON. Raises
        OSError."""
        size, rest = os.fstat(self._file).st_size, data
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except OSError:
            if self._path != STDERR and len(rest) < len(data):
                with suppress(OSError):  # a pipe takes nothing back
                    os.ftruncate(self._file, size)
            raise

    def _tell(self, why: str) -> None:
        """In the log, once for each reason."""
        if why not in self._failing:
            self._failing.add(why)
            log.error("cannot be written", extra=fields(reason=why))


def _line(event: str, values: dict[str, Any]) -> bytes:
    now = datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
    return msgspec.json.encode({"time": now, "event": event, **values}) + b"\n"
