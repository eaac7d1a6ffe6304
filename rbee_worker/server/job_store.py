"""The jobs that a worker knows: those that have not ended, and finished ones for a while."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Iterator

from msgspec.structs import replace

from rbee_worker.server.jobs import EVENT_BYTES, Asked, Job, held
from rbee_worker.types import ChatOptions, Event, Request

# Most that finished jobs hold together, in tokens (`jobs.held`).
MOST_KEPT = 1 << 20


class Jobs:
    """Jobs by id: live ones always, finished ones for a while.

    A finished job is removed after `keep_s` seconds, once `keep_n` jobs have finished after it, or
    when there are others and all together are larger than `MOST_KEPT`.
    """

    def __init__(
        self, *, keep_s: float, keep_n: int, removed: Callable[[Job], None] | None = None
    ) -> None:
        """removed: told of each finished job that is no longer kept."""
        self._removed = removed
        self._keep_s = keep_s
        self._keep_n = keep_n
        self._live: dict[str, Job] = {}
        self._kept: set[str] = set()  # ids of live jobs that can be found
        self._finished: OrderedDict[str, Job] = OrderedDict()  # oldest first
        self._by_key: dict[str, Job] = {}  # kept jobs by their Idempotency-Key
        self._weight = 0  # of `_finished`

    def add(self, job: Job, *, keep: bool) -> None:
        """keep: `get` finds the job, now and for a while after it has ended."""
        self._live[job.id] = job
        if keep:
            self._kept.add(job.id)
            if job.asked is not None:
                self._by_key[job.asked.key] = job

    def finish(self, job: Job) -> None:
        """The job has just ended. Nobody needs any more what it was asked with, which may be large;
        its first event has the ids of the prompt and the parameters."""
        job.request = replace(
            job.request,
            prompt=None,
            messages=None,
            token_ids=None,
            params={},
            template_args={},
            chat=ChatOptions(),
            constraint=None,
            pair=None,
            pictures=(),
        )
        job.finished = job.finished or time.time()
        # one of an earlier process has a part of its time behind it
        job.ended_s = time.monotonic() - max(0.0, time.time() - job.finished)
        del self._live[job.id]
        if job.id in self._kept:
            self._kept.remove(job.id)
            job.weight = sum(map(held, job.log.events))
            self._weight += job.weight
            self._finished[job.id] = job
            self.tidy()

    def recall(self, job: Job) -> None:
        """A kept job of an earlier process. Finished ones come in the order in which they ended."""
        self.add(job, keep=True)
        if job.finished is not None:
            self.finish(job)

    def get(self, job_id: str) -> Job | None:
        self.tidy()
        if job_id in self._kept:
            return self._live[job_id]
        return self._finished.get(job_id)

    def by_key(self, key: str) -> Job | None:
        """The kept job that was requested with this Idempotency-Key."""
        self.tidy()
        return self._by_key.get(key)

    def note(self, job_id: str, word: Event, asked: Asked | None = None, *, owner: str = "") -> Job:
        """A kept job without work for the engine: it has one event and has ended."""
        job = Job(Request(id=job_id), asked=asked, owner=owner)
        self.add(job, keep=True)
        job.log.append(word)
        job.log.close()
        self.finish(job)
        return job

    def live(self) -> list[Job]:
        """Every job that has not ended, kept or not."""
        return list(self._live.values())

    @property
    def finished(self) -> int:
        """Jobs that have ended and are kept."""
        self.tidy()
        return len(self._finished)

    @property
    def finished_bytes(self) -> int:
        """What they take of the memory, about."""
        self.tidy()
        return self._weight * EVENT_BYTES

    def __iter__(self) -> Iterator[Job]:
        """The kept jobs, newest first: live ones, then finished ones."""
        self.tidy()
        yield from (job for job in reversed(self._live.values()) if job.id in self._kept)
        yield from reversed(self._finished.values())

    def tidy(self) -> None:
        """Remove what need not be kept any more. It happens whenever something is asked, too."""
        horizon = time.monotonic() - self._keep_s
        while self._finished:
            oldest = next(iter(self._finished.values()))
            small = self._weight <= MOST_KEPT or len(self._finished) == 1
            if small and len(self._finished) <= self._keep_n and oldest.ended_s > horizon:
                return
            self._finished.popitem(last=False)
            self._weight -= oldest.weight
            if oldest.asked is not None and self._by_key.get(oldest.asked.key) is oldest:
                del self._by_key[oldest.asked.key]
            if self._removed is not None:
                self._removed(oldest)
