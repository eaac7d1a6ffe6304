"""`Keeper`: a worker's jobs in the journal.

An event is written before any client can see it, so what a client has seen is what another process
goes on from: its ids stay what they are. If the journal cannot be written, answers go on in memory
and say so; what is missing is written as soon as that is possible again.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Literal

import msgspec

from rbee_worker.config import Settings
from rbee_worker.errors import one_line
from rbee_worker.journal.database import Database
from rbee_worker.journal.directory import Directory
from rbee_worker.journal.records import Accept, Append, Entry, Kept, Note, Record, Remove
from rbee_worker.journal.writer import Crowded, Outcome, Writer
from rbee_worker.observe import narration
from rbee_worker.observe.log import fields, logger
from rbee_worker.server.jobs import Job
from rbee_worker.server.prompts import of_ids
from rbee_worker.types import Event

RETRY_S = 5.0  # seconds until the journal is tried again
_MIB = 1 << 20

log = logger("journal")


@dataclass(eq=False)
class _Track:
    """A job that the journal follows. written: events in it; accepted: the job itself is."""

    job: Job
    written: int = 0
    accepted: bool = False


class Keeper:
    """state: "loading" until the journal is read; "working"; "behind": it cannot be written.
    closing: the worker leaves.

    Counts for metrics: failures, commits, used_bytes, tidied (jobs removed because it was full),
    resumed (jobs of an earlier process that went on).
    """

    def __init__(self, directory: Directory) -> None:
        self.directory = directory
        self.state: Literal["loading", "working", "behind"] = "loading"
        self.failures = self.commits = self.used_bytes = self.tidied = self.resumed = 0
        self.closing = False
        self._lacks = False  # it has jobs of which an earlier worker could not write all
        self._reading: asyncio.Task[tuple[Database, list[Kept]]] | None = None
        self._writer: Writer | None = None
        self._tracks: dict[str, _Track] = {}
        self._gone: list[str] = []  # removed jobs that the journal still has
        self._notes: list[Note] = []  # of this worker
        self._crowded_out = 0  # jobs that ended while there was no room for them
        self._retry: asyncio.TimerHandle | None = None

    async def read(self, settings: Settings, version: str) -> list[Kept]:
        """Open the journal; the jobs in it, in order. Raises UsageError."""
        load = asyncio.to_thread(
            self.directory.load,
            settings.model,
            version,
            most_bytes=settings.journal_mb * _MIB,
            sync=settings.journal_sync,
        )
        self._reading = asyncio.create_task(load, name="journal-reading")
        database, kept = await asyncio.shield(self._reading)
        for text in self.directory.told:
            log.warning("found", extra=fields(journal=text))
        self.used_bytes = database.used_bytes
        self._writer = Writer(database)
        self._lacks = not self.directory.was_whole
        self._notes = list(self.directory.due)
        self.state = "working"
        if self._notes:
            self._writer.put(self._notes, self._count)
        if self.directory.damaged:
            self._remove(self.directory.damaged)
        return kept

    def same(self, name: str, value: str) -> bool:
        """Whether `value` is what the journal says of the earlier worker, or it says nothing."""
        return self.directory.notes.get(name, value) == value

    def note(self, name: str, value: str) -> None:
        """Say it of this worker, of which all jobs are that have not ended."""
        self._notes.append(Note(name, value))
        if self.state == "working" and self._writer is not None:
            self._writer.put(self._notes, self._count)

    def whole(self) -> None:
        """The jobs whose events an earlier worker has not all written have ended."""
        if self._lacks:
            self._lacks = False
            if self.state == "working":
                self._mark(whole=True)

    # ---- one job

    async def accept(self, job: Job) -> None:
        """Keep a job with its first events. When this returns, another process would go on with
        it, unless the journal is behind."""
        assert self.state != "loading", "the worker takes jobs once the journal is read"
        track = self._tracks[job.id] = _Track(job)
        job.durable = True
        if self.state == "working":
            await self._put(track, Accept(_record(job), list(job.log.events)), None)

    def follow(self, job: Job) -> None:
        """A job of an earlier process is about to go on."""
        self._tracks[job.id] = _Track(job, written=len(job.log.events), accepted=True)

    async def keep(self, job: Job, event: Event, *, last: bool = False) -> None:
        """Write an event, then append it to the job's log. last: the job ends with it."""
        track = self._tracks.get(job.id)
        if last:
            job.finished = time.time()
        if track is None or self.state != "working":
            job.log.append(event)
            return
        await self._put(track, Append(job.id, track.written, [event], job.finished), event)

    async def _put(self, track: _Track, entry: Accept | Append, event: Event | None) -> None:
        """Write `entry`; `event` goes to the log in any case. It is appended here, in the order of
        the journal, and not by the task that waits: a narration may come between."""
        assert self._writer is not None
        waiter = asyncio.get_running_loop().create_future()

        def done(outcome: Outcome) -> None:
            if self._noted(outcome):
                track.accepted = True
                track.written += len(entry.events)
                if track.job.finished is not None:
                    self._tracks.pop(track.job.id, None)
            if event is not None:
                track.job.log.append(event)
            if not waiter.done():
                waiter.set_result(None)

        self._writer.put([entry], done)
        await waiter

    def forget(self, job: Job) -> None:
        """A finished job is no longer kept."""
        if not job.durable:
            return
        track = self._tracks.pop(job.id, None)
        if track is None or track.accepted:
            self._remove([job.id])

    def _remove(self, job_ids: Sequence[str]) -> None:
        if self.state != "working" or self._writer is None:
            self._gone += job_ids
            return

        def done(outcome: Outcome) -> None:
            if not self._noted(outcome):
                self._gone.extend(job_ids)

        self._writer.put([Remove(job_ids)], done)

    # ---- when the journal cannot be written

    def outlives(self, job: Job) -> bool:
        """Whether another process would go on with the job."""
        return job.durable and self.state == "working"

    def _count(self, outcome: Outcome) -> None:
        """The first entries that were not written put the journal behind."""
        self.commits, self.tidied = outcome.commits, outcome.tidied + self._crowded_out
        self.used_bytes = outcome.used_bytes or self.used_bytes
        if outcome.error is not None and self.state == "working":
            self._fall_behind(outcome.error)

    def _noted(self, outcome: Outcome) -> bool:
        """Whether entries were written."""
        self._count(outcome)
        return outcome.error is None

    def _fall_behind(self, error: Exception) -> None:
        self.state = "behind"
        self.failures += 1
        known = isinstance(error, sqlite3.Error | Crowded)
        reason = one_line(str(error) if known else repr(error), 100)
        log.error("cannot be written; jobs are kept in memory only", extra=fields(reason=reason))
        self._mark(whole=False)
        for track in self._tracks.values():
            if track.job.live:
                track.job.log.append(narration.memory_only(track.job.id, reason))
        self._retry_later()

    def _retry_later(self) -> None:
        self._retry = asyncio.get_running_loop().call_later(RETRY_S, self._catch_up)

    def _catch_up(self, told: Callable[[], None] | None = None) -> None:
        """Write everything that is missing. told: called when that is done, or has failed."""
        assert self._writer is not None
        tracks = [(t, len(t.job.log.events), not t.job.live) for t in self._tracks.values()]
        gone = list(self._gone)
        # First what leaves: the journal may be full of it.
        entries: list[Entry] = [Remove(gone), *self._notes] if gone else [*self._notes]
        entries += [entry for track, *_ in tracks for entry in _missing(track)]

        def done(outcome: Outcome) -> None:
            if not self._noted(outcome):
                self.failures += 1
                if isinstance(outcome.error, Crowded) and self._left_out():
                    self._catch_up(told)
                    return
                self._retry_later()
            else:
                self._caught_up(tracks, gone)
            if told is not None:
                told()

        self._writer.put(entries, done, mends=True)

    def _left_out(self) -> bool:
        """There is no room for all that is missing: what has ended meanwhile leaves the journal, as
        other jobs that have ended do. Returns whether there was such a job."""
        ended = [track for track in self._tracks.values() if not track.job.live]
        for track in ended:
            del self._tracks[track.job.id]
            if track.accepted:
                self._gone.append(track.job.id)
        self._crowded_out += len(ended)
        return bool(ended)

    def _caught_up(self, tracks: list[tuple[_Track, int, bool]], gone: list[str]) -> None:
        """The journal has all that there was when it began to catch up."""
        self._gone = self._gone[len(gone) :]
        for track, written, ended in tracks:
            track.written, track.accepted = written, True
            if ended:
                self._tracks.pop(track.job.id, None)
        if self._gone or any(_missing(track) for track in self._tracks.values()):
            self._catch_up()
            return
        self.state = "working"
        if not self._lacks:
            self._mark(whole=True)
        log.warning("is written again")

    def _mark(self, *, whole: bool) -> None:
        try:
            self.directory.whole(whole)
        except OSError as error:
            log.error("cannot be marked", extra=fields(reason=error.strerror))

    async def close(self) -> None:
        """Write what can be written, and let the directory go, which no thread uses any more."""
        self.closing = True
        if self._retry is not None:
            self._retry.cancel()
        if self._writer is not None:
            if self.state == "behind":
                tried = asyncio.Event()
                self._catch_up(tried.set)
                await tried.wait()
                if self._retry is not None:
                    self._retry.cancel()
            await self._writer.close()
            self._writer = None
        elif self._reading is not None:
            with suppress(Exception):  # it was told to whoever waited for it, if anybody did
                database, _ = await self._reading
                database.close()
        self.directory.close()


def _missing(track: _Track) -> list[Entry]:
    """What the journal lacks of a job."""
    job, events = track.job, track.job.log.events
    missing: list[Entry] = []
    if not track.accepted:
        missing.append(Accept(_record(job), list(events)))
    elif len(events) > track.written:
        missing.append(Append(job.id, track.written, events[track.written :]))
    if not job.live:
        missing.append(Append(job.id, len(events), (), job.finished))
    return missing


def _record(job: Job) -> Record:
    """The job without what its first event has."""
    started = job.started
    assert started is not None
    request = msgspec.structs.replace(of_ids(job.request, started), token_ids=None, params={})
    asked = job.asked
    return Record(
        id=job.id,
        created=job.created,
        request=request,
        correlation_id=job.correlation_id,
        owner=job.owner,
        trace=job.trace,
        key="" if asked is None else asked.key,
        digest=b"" if asked is None else asked.digest,
    )
