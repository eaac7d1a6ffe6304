"""The journal's SQLite file: a row for each job, a row for events that were written together.

One connection, used by one thread at a time. Commits go to the write-ahead log, which a process
that is killed leaves complete. `sync` says which of them also wait for the disk itself.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Literal

from rbee_worker.journal.records import (
    Accept,
    Append,
    Damaged,
    Entry,
    Kept,
    Note,
    Record,
    Remove,
    events_of,
    packed,
    record_of,
)
from rbee_worker.types import Event

Sync = Literal["none", "jobs", "events"]

FORMAT = 1  # of the tables and of the bytes in them
_APPLICATION = 0x72626565  # "rbee"
_TABLES = """
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, finished REAL,
    record BLOB NOT NULL, checksum INTEGER NOT NULL
);
CREATE TABLE IF NOT EXISTS pieces (
    job INTEGER NOT NULL, place INTEGER NOT NULL,
    events BLOB NOT NULL, checksum INTEGER NOT NULL, PRIMARY KEY (job, place)
) WITHOUT ROWID;
"""
_PAGE = 1024  # bytes; a commit of one event writes two or three pages
# SQLite's own cache, which fills for as long as a file grows, to 2 MB unless it is told. What is
# written lies at the end of a table, and what is forgotten is read once.
_CACHED_KIB = 512
_COPIED_AT = 4096  # pages of the write-ahead log after which it is copied into the file
_FULL_AT, _KEPT_AT = 1.25, 0.9  # of the allowed size: it is refused; what tidying leaves
_WAL_BYTES = 16 << 20  # what the write-ahead log is cut to once it has been copied


LACKS = "lacks events"  # a note: "yes" if clients were given events that could not be written


def note_lack(path: Path) -> None:
    """Note in the file itself that it lacks events, for whichever worker takes it one day. Raises
    sqlite3.Error, also for a file that is no journal."""
    with closing(sqlite3.connect(path, isolation_level=None, timeout=0)) as database:
        database.execute("INSERT OR REPLACE INTO notes VALUES (?, 'yes')", (LACKS,))


class Foreign(Exception):
    """A readable file that this worker must not go on with; the text says why."""


class Database:
    """The file at `path`. used_bytes: what its rows take."""

    def __init__(self, path: Path, *, most_bytes: int, sync: Sync) -> None:
        """Opens the file, or makes one (mode 0600). Raises sqlite3.Error, OSError, and Foreign for
        a file of another program or format."""
        self._most_bytes = most_bytes
        self._sync = sync
        self._numbers: dict[str, int] = {}  # a job's row, by its id
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        os.chmod(path, 0o600)  # SQLite gives its other files the same mode
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=0)
        try:
            self._begin()
        except BaseException:
            self._db.close()
            raise

    def _begin(self) -> None:
        ask = self._db.execute
        # Alone with the file, SQLite needs no shared memory beside it.
        ask("PRAGMA locking_mode = EXCLUSIVE")
        application, form = self._number("application_id"), self._number("user_version")
        new = self._number("schema_version") == 0
        if not new and application != _APPLICATION:
            raise Foreign("it belongs to another program")
        if not new and form != FORMAT:
            raise Foreign(f"it has the format {form}, this version reads {FORMAT}")
        if new:
            ask(f"PRAGMA page_size = {_PAGE}")
        ask("PRAGMA journal_mode = WAL")
        ask(f"PRAGMA wal_autocheckpoint = {_COPIED_AT}")
        ask(f"PRAGMA cache_size = -{_CACHED_KIB}")
        ask("PRAGMA secure_delete = ON")  # a prompt that is forgotten is overwritten
        ask(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        ask(f"PRAGMA max_page_count = {int(self._most_bytes * _FULL_AT) // _PAGE}")
        if new:
            self._db.executescript(
                f"BEGIN IMMEDIATE; {_TABLES} PRAGMA application_id = {_APPLICATION};"
                f"PRAGMA user_version = {FORMAT}; COMMIT;"
            )

    def _number(self, pragma: str) -> int:
        found: int = self._db.execute(f"PRAGMA {pragma}").fetchone()[0]
        return found

    def close(self) -> None:
        self._db.close()

    # ---- what it is a journal of

    def notes(self) -> dict[str, str]:
        """What was noted of the worker that wrote it."""
        return dict(self._db.execute("SELECT name, value FROM notes"))

    # ---- reading

    def read(self) -> tuple[list[Kept], list[str]]:
        """All jobs in the order in which they were accepted, and the ids of those that are damaged.
        Raises sqlite3.Error."""
        found: list[Kept] = []
        damaged: list[str] = []
        rows = self._db.execute(
            "SELECT number, id, finished, record, checksum FROM jobs ORDER BY 1"
        )
        for number, job_id, finished, data, check in rows.fetchall():
            self._numbers[job_id] = number
            try:
                kept = Kept(record_of(data, check), finished)
                self._read_events(number, kept)
                found.append(kept)
            except Damaged:
                damaged.append(job_id)
        return found, damaged

    def _read_events(self, number: int, kept: Kept) -> None:
        pieces = self._db.execute(
            "SELECT place, events, checksum FROM pieces WHERE job = ? ORDER BY place", (number,)
        )
        for place, data, check in pieces:
            if place != len(kept.events):
                raise Damaged("events are missing")
            kept.events += events_of(data, check)
        if not kept.events:
            raise Damaged("the first event is missing")

    # ---- writing

    def write(self, entries: Sequence[Entry]) -> None:
        """All of `entries` or none, in one transaction. Raises sqlite3.Error."""
        self._db.execute(f"PRAGMA synchronous = {self._care(entries)}")
        before = dict(self._numbers) if any(isinstance(e, Remove) for e in entries) else None
        added: list[str] = []
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for entry in entries:
                if isinstance(entry, Append):
                    self._append(entry)
                elif isinstance(entry, Accept):
                    self._accept(entry)
                    added.append(entry.record.id)
                elif isinstance(entry, Note):
                    row = (entry.name, entry.value)
                    self._db.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", row)
                else:
                    self._remove(entry.job_ids)
            self._db.execute("COMMIT")
        except BaseException:
            if before is not None:
                self._numbers = before
            for job_id in added:
                self._numbers.pop(job_id, None)
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _care(self, entries: Sequence[Entry]) -> str:
        """FULL waits for the disk at the commit, NORMAL only where the log is copied."""
        ends = any(
            isinstance(e, Accept) or (isinstance(e, Append) and e.finished is not None)
            for e in entries
        )
        waits = self._sync == "events" or (self._sync == "jobs" and ends)
        return "FULL" if waits else "NORMAL"

    def _accept(self, entry: Accept) -> None:
        job_id = entry.record.id
        row = self._db.execute(
            "INSERT INTO jobs (id, record, checksum) VALUES (?, ?, ?)",
            (job_id, *packed(entry.record)),
        )
        assert row.lastrowid is not None
        self._numbers[job_id] = row.lastrowid
        self._append(Append(job_id, 0, entry.events))

    def _append(self, entry: Append) -> None:
        number = self._numbers[entry.job_id]
        if entry.events:
            row = (number, entry.place, *packed(entry.events))
            self._db.execute("INSERT INTO pieces VALUES (?, ?, ?, ?)", row)
        if entry.finished is not None:
            self._db.execute(
                "UPDATE jobs SET finished = ? WHERE number = ?", (entry.finished, number)
            )

    def _remove(self, job_ids: Sequence[str]) -> None:
        for job_id in job_ids:
            number = self._numbers.pop(job_id, None)
            if number is not None:
                self._db.execute("DELETE FROM pieces WHERE job = ?", (number,))
                self._db.execute("DELETE FROM jobs WHERE number = ?", (number,))

    def wipe(self) -> None:
        """Leave no byte of removed jobs in the files: their rows are overwritten in the write-ahead
        log, which then still has them, and the file as well. Raises sqlite3.Error."""
        self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    # ---- size

    @property
    def used_bytes(self) -> int:
        return (self._number("page_count") - self._number("freelist_count")) * _PAGE

    def crowded(self, entries: Sequence[Entry]) -> bool:
        """Whether it would be larger than allowed with `entries`."""
        return self.used_bytes + nbytes(entries) > self._most_bytes

    def tidy(self, coming: int = 0) -> int:
        """If it is larger than allowed, or would be with `coming` bytes more, remove jobs that have
        ended, the oldest first; returns how many. Raises sqlite3.Error."""
        if coming > self._most_bytes * _FULL_AT:
            coming = 0  # no room is enough
        removed = 0
        while self.used_bytes + coming > self._most_bytes * (_KEPT_AT if removed else 1):
            oldest = self._db.execute(
                "SELECT id FROM jobs WHERE finished IS NOT NULL ORDER BY finished LIMIT 8"
            ).fetchall()
            if not oldest:
                break
            self.write([Remove([job_id for (job_id,) in oldest])])
            removed += len(oldest)
        return removed


def nbytes(entries: Sequence[Entry]) -> int:
    """What the rows of `entries` have in them."""
    values: list[Record | Sequence[Event]] = []
    for entry in entries:
        if isinstance(entry, Accept):
            values += [entry.record, entry.events]
        elif isinstance(entry, Append):
            values.append(entry.events)
    return sum(len(packed(value)[0]) for value in values)
