"""`admitted`: requests become jobs, each with its first event in its log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from rbee_worker.errors import WorkerError
from rbee_worker.observe.context import correlation_id
from rbee_worker.server.jobs import Asked, Job
from rbee_worker.server.limits import caller, current_call
from rbee_worker.server.prompts import echo, of_ids
from rbee_worker.server.served_models import chosen_adapter
from rbee_worker.types import Request, Started

if TYPE_CHECKING:
    from rbee_worker.server.worker import Worker


async def admitted(
    worker: Worker, requests: Sequence[Request], *, keep: bool, trace: bool, asked: Asked | None
) -> list[Job]:
    """All of `requests` as jobs, or none: see `Worker.submit`."""
    jobs: list[Job] = []
    call = current_call()
    if call is not None:
        call.enter()
    if keep:
        await worker.known()
    try:
        for request in requests:
            like = jobs[len(jobs) - request.choice] if request.choice else None
            jobs.append(await _begun(worker, request, keep, trace, like, asked))
            await asyncio.sleep(0)  # preparing many must not delay the streams of others
    except BaseException as error:
        for job in jobs:
            await worker.cancel(job)
        if isinstance(error, WorkerError):
            worker.observers.refused(error.code)
        raise
    return jobs


async def _begun(
    worker: Worker,
    request: Request,
    keep: bool,
    trace: bool,
    like: Job | None,
    asked: Asked | None,
) -> Job:
    """like: a started job with the same prompt, which is then not tokenized again."""
    name = chosen_adapter()
    keys = {info.name: info.key for info in worker.serving().adapters.infos} if name else {}
    request = replace(request, adapter=name, adapter_key=keys.get(name, ""))
    job = Job(request, correlation_id=correlation_id(), owner=caller(), trace=trace, asked=asked)
    if like is not None and like.started is not None:
        request = of_ids(request, like.started)
    events = worker.serving().generate(request)
    first = await anext(events)
    job.prepared_ms = (time.monotonic() - job.born) * 1e3
    job.log.append(first)
    if isinstance(first, Started) and first.sampling.params.echo:
        job.log.append(await echo(worker.serving().tokenizer, job.request, first))
    if keep and worker.journal is not None and worker.recovery is not None:
        await worker.recovery.over.wait()
        await worker.journal.accept(job)
    worker.jobs.add(job, keep=keep)
    worker.observers.admitted(job)
    if (call := current_call()) is not None and isinstance(first, Started):
        job.call = call
        call.begun(first.prompt_tokens)
    worker.follow(job, events)
    return job
