"""The journal's directory: one worker at a time holds it, nobody else can read it.

lock       held (flock) as long as the worker lives, whatever ends it
state      whether the file has all events that clients were given (see `Directory.whole`)
jobs.db    the database, with SQLite's own files beside it
*.aside    databases that this worker could not go on with; they are never deleted
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from contextlib import suppress
from pathlib import Path

from rbee_worker.errors import UsageError
from rbee_worker.journal.database import LACKS, Database, Foreign, Sync, note_lack
from rbee_worker.journal.records import Kept, Note

_FILES = ("jobs.db", "jobs.db-wal", "jobs.db-shm")
_WHOLE, _BEHIND = b"whole \n", b"behind\n"  # of one length: a full disk has space for the other
# SQLite's codes that mean the bytes are wrong, not that the disk or the system refused something.
_WRONG = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _is_wrong(error: sqlite3.Error) -> bool:
    """Whether it is the file's fault."""
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF in _WRONG


class Directory:
    """A directory that this process holds.

    told: sentences for the operator, about what was found. notes: what the database says of the
    worker that wrote it. damaged: ids of jobs that cannot be read. was_whole: False if the last
    worker's clients were given events that it could not write. due: what is to be written into the
    database, once that can be.
    """

    def __init__(self, name: str) -> None:
        """Makes the directory (mode 0700) if there is none, and takes it. Raises UsageError."""
        self.path = Path(name)
        self.told: list[str] = []
        self.notes: dict[str, str] = {}
        self.damaged: list[str] = []
        self.due: list[Note] = []
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = self._file("lock")
        except OSError as error:
            raise self._unusable(error) from None
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(self._lock)
            if not isinstance(error, BlockingIOError):
                raise self._unusable(error) from None
            raise UsageError(
                f"--journal {name}: another worker uses this directory.",
                fix="give each worker a directory of its own.",
            ) from None
        try:
            self._state = self._file("state")
            self.was_whole = os.pread(self._state, len(_BEHIND), 0) != _BEHIND
            self.whole(self.was_whole)
        except OSError as error:
            os.close(self._lock)
            raise self._unusable(error) from None

    def _file(self, name: str) -> int:
        made = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.fchmod(made, 0o600)
        return made

    def _unusable(self, error: OSError | sqlite3.Error) -> UsageError:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return UsageError(
            f"--journal {self.path}: {reason}.",
            fix="give a directory that can be written, free space on its disk, or leave it out.",
        )

    def whole(self, whole: bool) -> None:
        """Note whether the database has all events that clients were given. Raises OSError."""
        os.pwrite(self._state, _WHOLE if whole else _BEHIND, 0)

    def load(
        self, model: str, version: str, *, most_bytes: int, sync: Sync
    ) -> tuple[Database, list[Kept]]:
        """The database of the model named `model` and this version of the worker, and the jobs in
        it in order. One of another model or version, or that is no database any more, is set aside;
        damaged jobs are left out. Raises UsageError."""
        mine = {"model": model, "version": version}
        path = self.path / _FILES[0]
        try:
            try:
                return self._load(path, mine, most_bytes, sync)
            except (Foreign, sqlite3.DatabaseError) as error:
                self._set_aside(error)
                return self._load(path, mine, most_bytes, sync)
        except (sqlite3.Error, OSError) as error:
            raise self._unusable(error) from None

    def _load(
        self, path: Path, mine: dict[str, str], most_bytes: int, sync: Sync
    ) -> tuple[Database, list[Kept]]:
        database = Database(path, most_bytes=most_bytes, sync=sync)
        try:
            self.notes = found = database.notes()
            for name, value in mine.items():
                if found.get(name, value) != value:
                    raise Foreign(f"it is of {name} {found[name]}, this worker's is {value}")
            if found.get(LACKS) == "yes":  # it was set aside so, and somebody took it back
                self.was_whole = False
                self.whole(False)
                self.due.append(Note(LACKS, ""))
            if not mine.items() <= found.items():
                database.write([Note(name, value) for name, value in mine.items()])
            kept, damaged = database.read()
        except BaseException:
            database.close()
            raise
        if damaged:
            self.damaged = damaged
            jobs = "1 job" if len(damaged) == 1 else f"{len(damaged)} jobs"
            self.told.append(f"the journal in {self.path} is damaged: {jobs} cannot be read")
        return database, kept

    def _set_aside(self, why: Exception) -> None:
        """Give the database another name. Raises `why` if it is no fault of the file's, and where
        what it lacks cannot be noted in it."""
        if isinstance(why, sqlite3.Error) and not _is_wrong(why):
            raise why
        if not self.was_whole:
            try:
                note_lack(self.path / _FILES[0])
            except sqlite3.Error as error:
                if not _is_wrong(error):
                    raise
        stamp = time.strftime("%Y%m%d-%H%M%S")
        names = (f"{stamp}{extra}" for extra in ("", *(f"-{n}" for n in range(1, 10000))))
        name = next(n for n in names if not (self.path / f"{n}.aside").exists())
        for file in _FILES:
            with suppress(FileNotFoundError):
                (self.path / file).rename(self.path / file.replace(_FILES[0], f"{name}.aside"))
        reason = str(why) if isinstance(why, Foreign) else f"it is damaged ({why})"
        self.told.append(
            f"the journal in {self.path} was set aside as {name}.aside, and a new one begun: "
            f"{reason}" + ("" if self.was_whole else "; it lacks events that clients were given")
        )
        self.was_whole = True
        self.whole(True)

    def close(self) -> None:
        """Let the directory go."""
        os.close(self._state)
        os.close(self._lock)
