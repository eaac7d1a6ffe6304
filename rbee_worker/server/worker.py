"""The worker behind the routes: one engine, its life, and its jobs.

Starts the engine once the socket listens, admits requests, moves their events into job logs, and
drains. No HTTP here, and no import of torch.
"""

from __future__ import annotations

import asyncio
import importlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import rbee_worker
from rbee_worker.config import Settings
from rbee_worker.engine.messages import Loading, Stats
from rbee_worker.errors import NotReady, WorkerError
from rbee_worker.model_info import Loss, ModelInfo, WorkerState
from rbee_worker.observe.log import fields, logger
from rbee_worker.server.admission import admitted
from rbee_worker.server.job_store import Jobs
from rbee_worker.server.jobs import Asked, Job
from rbee_worker.server.keeper import Keeper
from rbee_worker.server.observers import Observers
from rbee_worker.server.pump import pump
from rbee_worker.server.recovery import Recovery
from rbee_worker.server.responses.store import Responses
from rbee_worker.session.vectors import not_generating
from rbee_worker.types import Event, Request

if TYPE_CHECKING:
    from rbee_worker.journal.directory import Directory
    from rbee_worker.observe.telemetry import Telemetry
    from rbee_worker.observe.trace import Tracer
    from rbee_worker.server.audit import Audit
    from rbee_worker.server.tokens import Tokens
    from rbee_worker.session.client import EngineClient

RETRY_AFTER_S = 2
_WATCH_S = 0.1
_LAST_WORDS_S = 2.0  # seconds that cancelled jobs get to emit their last event

log = logger("server")


class StartEngine(Protocol):
    """`EngineClient.start`, or a test's replacement."""

    def __call__(
        self, settings: Settings, *, on_loading: Callable[[Loading], None]
    ) -> Awaitable[EngineClient]: ...


class Worker:
    """One model being served: `state`, `engine`, `jobs`."""

    def __init__(
        self,
        settings: Settings,
        tokens: Tokens,
        *,
        tracer: Tracer | None = None,
        telemetry: Telemetry | None = None,
        journal: Directory | None = None,
        audit: Audit | None = None,
    ) -> None:
        self.settings = settings
        self.tokens = tokens
        self.id = settings.worker_id
        self.port = settings.port
        self.born = time.monotonic()
        self.engine: EngineClient | None = None
        self.responses = Responses(keep_s=settings.keep_jobs_s, keep_n=settings.keep_jobs)
        self.journal = None if journal is None else Keeper(journal)
        self.recovery = None if self.journal is None else Recovery(self, self.journal)
        self.jobs = Jobs(
            keep_s=settings.keep_jobs_s,
            keep_n=settings.keep_jobs,
            removed=None if self.journal is None else self.journal.forget,
        )
        self.beginning: dict[str, asyncio.Future[None]] = {}  # by Idempotency-Key
        self.observers = Observers(self, tracer, telemetry, audit)
        self.loading = Loading(stage="starting")
        self.pages: dict[str, bytes] = {}  # descriptions of the routes, made on first request
        self.failure: WorkerError | None = None
        self.stopping = asyncio.Event()  # the process is about to exit: endless streams must end
        self._draining = False
        self._errands: set[asyncio.Task[None]] = set()  # references, or tasks could be collected
        self._changed = asyncio.Event()  # replaced at every change of state or progress

    # ---- state

    @property
    def version(self) -> str:
        return rbee_worker.__version__

    @property
    def state(self) -> WorkerState:
        if self.failure is not None:
            return "failed"
        if self._draining:
            return "draining"
        if self.engine is None or self.engine.info is None:
            return "loading"
        return self.engine.state

    @property
    def reason(self) -> str:
        """Why the worker is not ready, in one line."""
        if self.failure is not None:
            return str(self.failure)
        words = {
            "loading": f"the model is being loaded ({self.loading.stage})",
            "restarting": "the engine is being restarted; running jobs continue afterwards",
            "stalled": "the engine's process does not answer; jobs go on when it does",
            "draining": "the worker is shutting down",
            "failed": "the engine has failed",
        }
        return words.get(self.state, "")

    @property
    def restarts(self) -> int:
        """Engine processes that were lost and replaced."""
        return self.engine.restarts if self.engine is not None else 0

    @property
    def losses(self) -> Mapping[Loss, int]:
        """Engine processes that were lost, by what ended them."""
        return self.engine.losses if self.engine is not None else {}

    @property
    def model(self) -> ModelInfo | None:
        """The model, once it is loaded."""
        return self.engine.info if self.engine is not None else None

    @property
    def stats(self) -> Stats | None:
        """The engine's latest figures; zeros before its first step, None before it is ready."""
        info = self.model
        if self.engine is None or info is None:
            return None
        if self.engine.stats is not None:
            return self.engine.stats
        counts = dict.fromkeys(Stats.__struct_fields__, 0)
        counts["kv_total_blocks"] = info.kv_tokens // info.block_size
        return Stats(**counts)

    def serving(self) -> EngineClient:
        """The engine, if it takes work now. Raises NotReady."""
        state = self.state
        if state != "ready" or self.engine is None:
            raise NotReady(state, f"Not ready: {self.reason}.", retry_after_s=RETRY_AFTER_S)
        return self.engine

    def generating(self) -> EngineClient:
        """The engine, if it takes requests for text now. Raises NotReady, or WrongModel for a model
        that generates none."""
        engine = self.serving()
        assert engine.info is not None
        if engine.info.purpose.task != "generate":
            raise not_generating(engine.info)
        return engine

    async def run(self, start: StartEngine) -> None:
        """Load the model and supervise the engine until it fails. Raises WorkerError."""
        try:
            await asyncio.to_thread(importlib.import_module, "rbee_worker.observe.metrics")
            self.observers.metrics()  # its library is imported by now, outside the event loop
            self.engine = await start(self.settings, on_loading=self._progress)
            self.engine.observer = self.observers.tracer
            if self.recovery is not None:
                await self.recovery.recall()
            info = await self.engine.ready()
            log.info(
                "ready", extra=fields(model=info.model, device=info.device, s=round(self.age(), 2))
            )
            self._announce()
            if self.recovery is not None:
                await self.recovery.go_on()
            state = self.engine.state
            while self.engine.state != "failed":
                await asyncio.sleep(_WATCH_S)
                if self.engine.state != state:
                    state = self.engine.state
                    log.warning("engine state", extra=fields(state=state))
                    self._announce()
            raise self.engine.failure or WorkerError("The engine has failed.")
        except WorkerError as error:
            self.failure = error
            self._announce()
            raise

    def age(self) -> float:
        """Seconds since this worker was made."""
        return time.monotonic() - self.born

    async def changes(self, patience_s: float) -> AsyncIterator[bool]:
        """Yield at once; then True after each change of state or progress, False after silence."""
        yield True
        while not self.stopping.is_set():
            changed = self._changed
            try:
                await asyncio.wait_for(changed.wait(), patience_s)
                yield True
            except TimeoutError:
                yield False

    def _progress(self, loading: Loading) -> None:
        self.loading = loading
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    # ---- work

    async def known(self) -> None:
        """Wait until the jobs of an earlier process can be found. Raises NotReady if this worker
        leaves before it has read them: they are there, for the next one."""
        if self.recovery is not None and self.journal is not None:
            await self.recovery.known.wait()
            if self.journal.state == "loading":
                why = self.reason or "the journal has not been read"
                raise NotReady(self.state, f"Not ready: {why}.", retry_after_s=RETRY_AFTER_S)

    async def submit(
        self,
        requests: Sequence[Request],
        *,
        keep: bool,
        trace: bool = False,
        asked: Asked | None = None,
    ) -> list[Job]:
        """Admit all of `requests` or none; each job's log begins with its first event.

        keep: the jobs can be found by id, also for a while after they have ended. trace: record the
        phases of each. asked: the key of the one job that is kept. Raises NotReady, QueueFull,
        InvalidRequest, and Refusal where the caller's token is at its limits.
        """
        return await admitted(self, requests, keep=keep, trace=trace, asked=asked)

    def follow(self, job: Job, events: AsyncIterator[Event]) -> None:
        """Move `events` into the job's log until the last one."""
        job.pump = asyncio.create_task(pump(self, job, events))

    def sent(self, job: Job, start_s: float, events: int) -> None:
        """A stream of `job` wrote `events` events; start_s: when that began (monotonic)."""
        job.send_ms += (time.monotonic() - start_s) * 1e3
        job.sent_events += events
        self.observers.sent(start_s, events)

    def abandon(self, jobs: Sequence[Job]) -> None:
        """The only reader of these jobs has left: cancel them, without waiting."""
        for job in jobs:
            if job.live:
                task = asyncio.create_task(self.cancel(job))
                self._errands.add(task)
                task.add_done_callback(self._errands.discard)

    async def cancel(self, job: Job) -> None:
        """Ask the engine to end the job; its last event is then `end`. Idempotent."""
        if not job.live:
            return
        if job.pump is None and self.recovery is not None:  # it waits for the model
            if not job.unwanted:
                await self.recovery.end(job, "CANCELLED")
            return
        job.unwanted = True
        if self.engine is not None:
            await self.engine.cancel(job.id, "CANCELLED")

    # ---- the end

    async def drain(self, timeout_s: float) -> bool:
        """Accept no more work and let live jobs finish; True if all did within `timeout_s`.

        The others are cancelled: their streams end with an `end` event that says so. What another
        process would go on with is left to it.
        """
        self._draining = True
        self._announce()
        pumps = [job.pump for job in self.jobs.live() if job.pump is not None]
        if not pumps:
            return True
        _, late = await asyncio.wait(pumps, timeout=timeout_s)
        if late:
            ending = [job for job in self.jobs.live() if not self.outlives(job)]
            left = len(late) - len(ending)
            log.warning("drain timeout, cancelling", extra=fields(jobs=len(ending), left=left))
            for job in ending:
                await self.cancel(job)
            if words := [job.pump for job in ending if job.pump is not None]:
                await asyncio.wait(words, timeout=_LAST_WORDS_S)
        return not late

    def outlives(self, job: Job) -> bool:
        """Whether another process would go on with the job."""
        return self.journal is not None and self.journal.outlives(job)

    async def close(self) -> None:
        """End endless streams and the engine's process."""
        self.stopping.set()
        self._announce()
        left = [job.pump for job in self.jobs.live() if self.outlives(job) and job.pump is not None]
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        if self.engine is not None:
            await self.engine.close()
        if self.journal is not None:
            await self.journal.close()
