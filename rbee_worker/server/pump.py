"""`pump`: moves one answer's events from the engine into its job's log, and tells its end.

With a journal an event is written first. What a journal keeps does not end with this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from rbee_worker.errors import WorkerError
from rbee_worker.observe.log import fields, logger
from rbee_worker.server.auth import place_of
from rbee_worker.server.jobs import Job
from rbee_worker.types import End, Error, Event, Token

if TYPE_CHECKING:
    from rbee_worker.server.worker import Worker

log = logger("server")


async def pump(worker: Worker, job: Job, events: AsyncIterator[Event]) -> None:
    """Until the last of `events`. If another process of the worker goes on with the job, its log is
    left open."""
    try:
        async for event in events:
            if type(event) is not Token and _another_goes_on(worker, job, event):
                job.log.leave()
                return
            await _append(worker, job, event)
            if type(event) is Token:
                job.drawn += len(event.ids)
                if job.call is not None:
                    job.call.drew(len(event.ids))
                worker.observers.token(job, event)
    except WorkerError as error:
        code = error.code if error.code in ("VRAM_OOM", "ENGINE_LOST") else "INFERENCE_FAILED"
        await _append(worker, job, Error(code=code, message=str(error)))  # type: ignore[arg-type]
    except asyncio.CancelledError:
        if worker.outlives(job):
            job.log.leave()
            return
        raise
    except Exception as error:
        log.error(
            "job failed",
            extra=fields(job_id=job.id, error=type(error).__name__, where=place_of(error)),
        )
        message = "An error inside the worker; see its log."
        await _append(worker, job, Error(code="INFERENCE_FAILED", message=message))
    finally:
        _ended(worker, job)


async def _append(worker: Worker, job: Job, event: Event) -> None:
    if job.durable and worker.journal is not None:
        await worker.journal.keep(job, event, last=isinstance(event, End | Error))
    else:
        job.log.append(event)


def _another_goes_on(worker: Worker, job: Job, event: Event) -> bool:
    """Whether this event is the end of the worker's process only."""
    assert worker.engine is not None
    lost = isinstance(event, Error) and event.code == "ENGINE_LOST"
    return lost and worker.engine.state == "failed" and worker.outlives(job)


def _ended(worker: Worker, job: Job) -> None:
    if job.call is not None:
        job.call.drew(len(job.end.ids) if job.end is not None else 0)
        job.call.ended()
    if not job.log.left:
        job.log.close()
        worker.jobs.finish(job)
        worker.observers.finished(job)
