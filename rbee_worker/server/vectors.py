"""Requests for vectors: many texts of one HTTP request, a limited number of them in the engine.

Each text is a job like any other: the same queue, limits, metrics, time limits and cancellation. A
list of texts may be longer than the queue, of which it takes at most half.
"""

from __future__ import annotations

import asyncio
import sys
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from starlette.requests import Request as HttpRequest

from rbee_worker.errors import FieldError, InvalidRequest, QueueFull
from rbee_worker.params import prompt_faults
from rbee_worker.server.body import refuse
from rbee_worker.server.given_texts import Prompt
from rbee_worker.server.jobs import Job
from rbee_worker.server.problems import Refusal
from rbee_worker.server.requests import client_gone, failed, new_id, time_limit
from rbee_worker.server.vector_schemas import VectorUsage
from rbee_worker.server.worker import Worker
from rbee_worker.session.vectors import embedding
from rbee_worker.types import Request, Vector

Name = Callable[[int], str]  # the place of a request -> the field of the body with its text


@dataclass(frozen=True)
class Found:
    """One text's vector, or its classes' scores. data: float32, little-endian."""

    data: bytes
    tokens: int
    warnings: tuple[str, ...]

    @property
    def values(self) -> array[float]:
        """The numbers."""
        values = array("f", self.data)
        if sys.byteorder == "big":
            values.byteswap()
        return values


async def embedded(
    http: HttpRequest,
    worker: Worker,
    texts: Sequence[Prompt],
    name: Name,
    faults: list[FieldError],
    *,
    prompt: str | None = None,
    dimensions: int = 0,
    truncate: bool = False,
    timeout_s: float | None = None,
) -> list[Found]:
    """The vectors of texts or ids. prompt: the name of what is put before each, as in
    `session.vectors.embedding`; faults: what is wrong with the request already. Raises as
    `vectors` does, and InvalidRequest with these and all other faults."""
    engine = worker.serving()
    assert engine.info is not None
    answer_id = new_id("embd")
    make = partial(
        embedding,
        info=engine.info,
        sentence=engine.sentence,
        prompt=prompt,
        dimensions=dimensions,
        truncate=truncate,
        timeout_s=time_limit(worker, timeout_s),
    )
    requests: list[Request] = []
    try:
        requests = [make(f"{answer_id}-{n}", text) for n, text in enumerate(texts or ["?"])]
    except InvalidRequest as error:
        faults += error.errors
    for place, request in enumerate(requests if texts else ()):
        faults += prompt_faults(request, engine.rules, name=name(place))
    refuse(faults)
    return await vectors(http, worker, requests, name)


async def vectors(
    http: HttpRequest, worker: Worker, requests: Sequence[Request], name: Name
) -> list[Found]:
    """The vectors of all `requests`, in order. If the client leaves, all are cancelled.

    Raises InvalidRequest, whose faults bear the names of `name`, QueueFull if nothing can be begun,
    Refusal if a job failed.
    """
    jobs: list[Job] = []
    gone = asyncio.create_task(client_gone(http))
    work = asyncio.create_task(_run(worker, requests, jobs, name))
    try:
        await asyncio.wait({gone, work}, return_when=asyncio.FIRST_COMPLETED)
        if work.done():
            await work
            notes = worker.model.notes if worker.model is not None else ()
            return [_found(job, notes) for job in jobs]
        message = "The client left before the answer was complete."
        raise Refusal(499, "client_left", message, fix="wait for the whole answer.")
    finally:
        gone.cancel()
        work.cancel()
        for job in jobs:
            await worker.cancel(job)


async def _run(worker: Worker, requests: Sequence[Request], jobs: list[Job], name: Name) -> None:
    """Begin all requests, as room allows, and wait until they have ended."""
    most = max(1, (worker.settings.max_seqs + worker.settings.max_queue) // 2)
    for place, request in enumerate(requests):
        while not await _begun(worker, request, jobs, name(place), most):
            await _one_ends(jobs)
    while any(job.live for job in jobs):
        await _one_ends(jobs)
    for job in jobs:
        if job.error is not None:
            raise failed(job.error)


async def _begun(worker: Worker, request: Request, jobs: list[Job], name: str, most: int) -> bool:
    """Begin a request; False if one of `jobs` must end first."""
    live = sum(job.live for job in jobs[-most:])
    if live >= most:
        return False
    try:
        jobs += await worker.submit([request], keep=False)
    except QueueFull:
        if not live:
            raise
        return False
    except InvalidRequest as error:
        named = [FieldError(name, e.constraint, e.message, e.value) for e in error.errors]
        raise InvalidRequest(named) from None
    return True


async def _one_ends(jobs: Sequence[Job]) -> None:
    pumps = [job.pump for job in jobs if job.live and job.pump is not None]
    await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)


def _found(job: Job, notes: Sequence[str]) -> Found:
    """notes: on the model, which are not the text's own."""
    started, end = job.started, job.end
    assert started is not None
    assert end is not None
    for event in job.log.events:
        if isinstance(event, Vector):
            own = tuple(w for w in started.warnings if w not in notes)
            return Found(event.data, end.usage.prompt_tokens, own)
    rule = end.stop.rule  # it ended early
    fix = "send fewer texts, or give them more time."
    raise Refusal(408, rule.lower(), f"A text was given up: {rule}.", fix=fix)


def usage(found: Sequence[Found]) -> VectorUsage:
    """The tokens of all texts."""
    tokens = sum(one.tokens for one in found)
    return VectorUsage(prompt_tokens=tokens, total_tokens=tokens)


def warnings(found: Sequence[Found], name: Name) -> tuple[str, ...]:
    """What callers should know about their texts."""
    return tuple(
        f"{name(place)}: {warning}" for place, one in enumerate(found) for warning in one.warnings
    )


def size(found: Sequence[Found]) -> int:
    """The approximate size of an answer with all of it, in numbers."""
    return sum(len(one.data) // 4 for one in found)
