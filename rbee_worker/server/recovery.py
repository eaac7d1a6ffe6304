"""`Recovery`: the jobs of an earlier process of this worker, taken from its journal.

Finished ones can be read as before. The others go on, once the model is there, to the tokens that
they would have had: a token is a function of prompt, seed and the tokens before it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from rbee_worker.journal.records import Kept
from rbee_worker.observe.log import fields, logger
from rbee_worker.sequence_end import Rule, StopRecord, Usage
from rbee_worker.server.jobs import Asked, Job
from rbee_worker.server.keeper import Keeper
from rbee_worker.types import End, Error, Event, Narration, PromptLogprobs, Token

if TYPE_CHECKING:
    from rbee_worker.server.worker import Worker

# What may end while it computes a job, in a row and without a token of it, before the job is held
# to be the reason: engines (a live worker is stricter with those it loses itself), and whole
# workers, which no job should ever end: somebody kills them.
MOST_ENGINES, MOST_WORKERS = 9, 100
_SHORTEST_S = 0.001  # of a time limit that is all but over
FINGERPRINT = "fingerprint"  # the journal's note of what its jobs are computed with

log = logger("recovery")


class Recovery:
    """known: set once the jobs of the earlier process can be found; over: once the journal says
    what this process computes with, so that it may keep jobs of its own."""

    def __init__(self, worker: Worker, keeper: Keeper) -> None:
        self.known = asyncio.Event()
        self.over = asyncio.Event()
        self._worker = worker
        self._keeper = keeper
        self._waiting: list[Job] = []  # for the model

    async def recall(self) -> None:
        """Read the journal. Raises UsageError."""
        try:
            self._recall(await self._keeper.read(self._worker.settings, self._worker.version))
        finally:
            self.known.set()

    def _recall(self, kept: list[Kept]) -> None:
        ended = sorted((k for k in kept if k.finished is not None), key=lambda k: k.finished or 0)
        waiting = [k for k in kept if k.finished is None]
        for each in [*ended, *waiting]:
            job = job_of(each)
            if each.finished is None:
                self._keeper.follow(job)
                self._waiting.append(job)
            self._worker.jobs.recall(job)
        if kept:
            log.info("recalled", extra=fields(finished=len(ended), unfinished=len(waiting)))

    async def go_on(self) -> None:
        """The model is there: every job goes on, or fails where it cannot."""
        try:
            await self._go_on()
        finally:
            self.over.set()

    async def _go_on(self) -> None:
        mine, why = await self._why_not()
        for job in self._waiting:
            if not job.live or job.unwanted:
                continue
            lost = why or _worn(job)
            if lost:
                await self._fail(job, lost)
            elif (left := _time_left(job)) == 0:
                await self.end(job, "TIMEOUT")
            else:
                await self._resume(job, left)
        self._waiting.clear()
        # Not before: a worker that is killed meanwhile leaves jobs that may not go on.
        if mine:
            self._keeper.note(FINGERPRINT, mine)
        self._keeper.whole()

    async def end(self, job: Job, rule: Rule) -> None:
        """End a job that no engine has, once."""
        started = job.started
        assert started is not None
        usage = Usage(prompt_tokens=started.prompt_tokens, cached_tokens=0, output_tokens=job.drawn)
        await self._close(job, End(stop=StopRecord(rule=rule, at=job.drawn), usage=usage))

    async def _fail(self, job: Job, why: str) -> None:
        message = f"the worker was restarted, and this job cannot go on: {why}."
        await self._close(job, Error(code="ENGINE_LOST", message=message))

    async def _close(self, job: Job, event: End | Error) -> None:
        job.unwanted = True  # whoever cancels it while this is written finds it ended
        await self._keeper.keep(job, event, last=True)
        job.log.close()
        self._worker.jobs.finish(job)
        self._worker.observers.finished(job)

    async def _resume(self, job: Job, left_s: float | None) -> None:
        started = job.started
        assert started is not None
        request = msgspec.structs.replace(
            job.request, token_ids=started.prompt_ids, timeout_s=left_s
        )
        assert self._worker.engine is not None
        self._keeper.resumed += 1
        if job.drawn:  # its next token is not its first one
            job.last_token = time.monotonic()
        job.call = self._worker.tokens.accepted(job.owner)
        if job.call is not None:
            job.call.begun(0)
        self._worker.follow(job, self._worker.engine.generate(request, after=tuple(job.log.events)))
        await asyncio.sleep(0)  # the engine knows it from now on
        if job.unwanted:
            await self._worker.engine.cancel(job.id)

    async def _why_not(self) -> tuple[str, str]:
        """The model's fingerprint, "" if it cannot be had; and why no job can go on, "" if they
        can."""
        assert self._worker.engine is not None
        try:
            mine = await self._worker.engine.fingerprint()
        except OSError as error:
            return "", f"the model's files cannot be read ({error.strerror})"
        if not self._keeper.same(FINGERPRINT, mine):
            return mine, "the model's files, or how they are computed, have changed"
        if not self._keeper.directory.was_whole:
            return mine, "the journal could not be written when the worker ended"
        return mine, ""


def job_of(kept: Kept) -> Job:
    """The job as it was."""
    record, events = kept.record, kept.events
    job = Job(
        record.request,
        created=record.created,
        correlation_id=record.correlation_id,
        owner=record.owner,
        asked=Asked(record.key, record.digest) if record.key else None,
        trace=record.trace,
        durable=True,
        finished=kept.finished,
    )
    for event in events:
        job.log.append(event)
    job.drawn = sum(len(e.ids) for e in events if isinstance(e, Token) and e.i >= 0)
    if kept.finished is not None:
        job.log.close()
    return job


def _time_left(job: Job) -> float | None:
    """Seconds of the job's time limit that are left: it goes on while no worker runs. None: it has
    none; 0: it is over."""
    limit = job.request.timeout_s
    if limit is None:
        return None
    left = limit - max(0.0, time.time() - job.created)
    return min(limit, left) if left > _SHORTEST_S else 0


def _worn(job: Job) -> str:
    """Why a job fails that nothing survives; "" if it may go on."""
    engines, workers = ended_with(job.log.events)
    if engines >= MOST_ENGINES:
        return f"{engines} engines in a row stopped while they computed it"
    if workers >= MOST_WORKERS:
        return f"{workers} workers in a row ended while they computed it"
    return ""


def ended_with(events: Iterable[Event]) -> tuple[int, int]:
    """(engines, workers) that ended while they computed the job, since its last token."""
    engines = workers = 0
    running = False
    for event in events:
        if isinstance(event, PromptLogprobs) or (isinstance(event, Token) and event.ids):
            engines = workers = 0
        elif isinstance(event, Narration):
            if event.action == "restarting":
                engines += running
            elif event.action == "scheduled" and running:  # and nothing was said of its end
                workers += 1
            running = event.action == "scheduled" or (
                running and event.action not in ("restarting", "preempted")
            )
    return engines, workers + running
