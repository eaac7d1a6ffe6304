"""The thread that writes the journal.

What came while it wrote is written together next. After a failure it writes nothing until it is
given everything that is missing: what lies on the disk is then the beginning of every job's events,
without gaps.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

from rbee_worker.journal.database import Database, nbytes
from rbee_worker.journal.records import Entry, Remove

MOST = 512  # entries in one transaction
WIPED_S = 30.0  # seconds after which a removed job's bytes are in none of the journal's files


class Crowded(Exception):
    """Entries for which the journal has no room, even without any job that has ended."""

    def __str__(self) -> str:
        return "it would be larger than --journal-mb allows"


@dataclass(frozen=True)
class Outcome:
    """What became of entries. error: why they are not written; None: they are. commits, tidied: so
    far, transactions and jobs that were removed because the journal was full."""

    error: Exception | None
    commits: int
    used_bytes: int
    tidied: int


@dataclass(frozen=True)
class _Task:
    entries: Sequence[Entry]
    done: Callable[[Outcome], None]
    mends: bool


class Writer:
    """Writes to `database`, which belongs to it from now on, and tells the running event loop."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._loop = asyncio.get_running_loop()
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        self._failure: Exception | None = None
        self._commits = self._tidied = 0
        # Monotonic seconds; 0.0: nothing was removed since it was done. The worker before this one
        # may have removed something.
        self._wipe_at = time.monotonic() + WIPED_S
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    def put(
        self, entries: Sequence[Entry], done: Callable[[Outcome], None], *, mends: bool = False
    ) -> None:
        """Write `entries` together, then call `done` in the event loop. mends: they have everything
        that is missing since the last failure."""
        self._tasks.put(_Task(entries, done, mends))

    async def close(self) -> None:
        """Write what was put so far, and end."""
        self._tasks.put(None)
        await asyncio.to_thread(self._thread.join)
        self._database.close()

    def _run(self) -> None:
        last = False
        while not last:
            left_s = self._wipe_at - time.monotonic() if self._wipe_at else None
            try:
                tasks = [self._tasks.get(timeout=None if left_s is None else max(left_s, 0.0))]
            except queue.Empty:
                self._wipe()
                continue
            while len(tasks) < MOST and tasks[-1] is not None and not self._tasks.empty():
                tasks.append(self._tasks.get())
            last = tasks[-1] is None
            self._take([task for task in tasks if task is not None])
            if self._wipe_at and time.monotonic() >= self._wipe_at:
                self._wipe()

    def _wipe(self) -> None:
        """Overwrite what was removed. If that fails, it is tried again."""
        self._wipe_at = 0.0
        try:
            self._database.wipe()
        except Exception:
            self._removed()

    def _removed(self) -> None:
        self._wipe_at = self._wipe_at or time.monotonic() + WIPED_S

    def _take(self, tasks: list[_Task]) -> None:
        if not tasks:
            return
        # Only the first of those that mend counts what came before it; what follows it is whole.
        for place, task in enumerate(tasks):
            if task.mends and self._failure is not None:
                self._tell(tasks[:place], self._failure)
                self._failure = None
                tasks = tasks[place:]
                break
        if self._failure is None:
            self._failure = self._write([entry for task in tasks for entry in task.entries])
        self._tell(tasks, self._failure)

    def _write(self, entries: list[Entry]) -> Exception | None:
        try:
            try:
                self._database.write(entries)
            except sqlite3.OperationalError as error:
                if not self._tidy(nbytes(entries)):
                    raise (Crowded() if self._database.crowded(entries) else error) from None
                self._database.write(entries)
            self._commits += 1
            if any(isinstance(entry, Remove) for entry in entries):
                self._removed()
        except Exception as error:  # whatever it is, answers go on without the journal
            return error
        return None

    def _tidy(self, coming: int = 0) -> int:
        """See `Database.tidy`."""
        removed = self._database.tidy(coming)
        if removed:
            self._tidied += removed
            self._removed()
        return removed

    def _tell(self, tasks: list[_Task], error: Exception | None) -> None:
        if not tasks:
            return
        used = 0
        if error is None:
            try:
                self._tidy()
                used = self._database.used_bytes
            except Exception as wrong:  # these entries are written; the next ones are not
                self._failure = wrong
        outcome = Outcome(error, self._commits, used, self._tidied)

        def told() -> None:
            for task in tasks:
                task.done(outcome)

        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(told)
