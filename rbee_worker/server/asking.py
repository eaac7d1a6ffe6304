"""From a checked envelope to requests for the engine: what every inference route shares."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from starlette.requests import Request as HttpRequest

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.params import Surface, resolve
from rbee_worker.server.auth import IGNORED
from rbee_worker.server.body import check_ids, check_messages, check_prompt
from rbee_worker.server.jobs import Job
from rbee_worker.server.problems import Refusal
from rbee_worker.server.schemas import InferEnvelope, JobEnvelope
from rbee_worker.server.worker import Worker
from rbee_worker.types import Error, Request

STATUS_OF = {"VRAM_OOM": 507, "ENGINE_LOST": 503, "INVALID_REQUEST": 400}


def new_id(prefix: str) -> str:
    """A fresh id such as "job-3f2a..."."""
    return f"{prefix}-{uuid.uuid4().hex}"


def prompt_limit(worker: Worker) -> int:
    """Characters of a prompt, at most."""
    info = worker.serving().info
    assert info is not None
    return worker.settings.max_prompt_ratio * info.context


def model_names(worker: Worker) -> tuple[str, ...]:
    """What clients may call the model; the first is its name in answers."""
    names = [worker.settings.model]
    if worker.engine is not None and worker.engine.info is not None:
        names.append(worker.engine.info.model)
    return tuple(dict.fromkeys(names))


def check_model(worker: Worker, asked: str | None) -> str:
    """The served model's name. Raises Refusal 404 when another one is asked for."""
    names = model_names(worker)
    if asked is not None and asked not in names:
        raise Refusal(
            404,
            "model_not_found",
            "The model does not exist here.",
            fix=f"this worker serves {names[0]}; GET /v1/models lists it.",
            param="model",
        )
    return names[0]


def time_limit(worker: Worker, asked: float | None) -> float | None:
    """Seconds the request may take: the smaller of --request-timeout and its own wish."""
    limits = [s for s in (asked, worker.settings.request_timeout or None) if s is not None]
    return min(limits) if limits else None


def ask(
    worker: Worker,
    given: JobEnvelope | InferEnvelope,
    params: dict[str, Any],
    faults: list[FieldError],
    job_id: str,
) -> Request:
    """The request of a job or of /v1/infer. Raises InvalidRequest with every fault."""
    info = worker.serving().info
    assert info is not None
    limit = prompt_limit(worker)
    named = {"prompt": given.prompt, "messages": given.messages, "token_ids": given.token_ids}
    present = [name for name, value in named.items() if value is not None]
    faulty = {fault.field.partition("[")[0] for fault in faults}
    if len(present) != 1 and not faulty & named.keys():
        what = "are given together" if present else "are all missing"
        message = f"prompt, messages and token_ids {what}; give exactly one"
        faults.append(FieldError("prompt", "exactly one", message))
    messages = None
    if given.messages is not None:
        messages, found = check_messages(given.messages, limit)
        faults += found
    if given.prompt is not None:
        faults += check_prompt("prompt", given.prompt, limit)
    if given.token_ids is not None:
        faults += check_ids("token_ids", given.token_ids, info.vocab_size, info.context)
    refuse_with(worker, faults, params, "job")
    return Request(
        id=job_id,
        prompt=given.prompt,
        messages=None if messages is None else tuple(messages),
        token_ids=None if given.token_ids is None else tuple(given.token_ids),
        params=params,
        surface="job",
        timeout_s=time_limit(worker, given.timeout_s),
        template_args=given.template_args,
    )


def refuse_with(
    worker: Worker, faults: list[FieldError], params: dict[str, Any], surface: Surface
) -> None:
    """If the envelope has faults, raise them together with those of the parameters."""
    if not faults:
        return
    info = worker.serving().info
    assert info is not None
    try:
        resolve(
            params,
            surface=surface,
            vocab_size=info.vocab_size,
            context=info.context,
            generation={},
            template_exempt=(),
            eos=(),
            lenient=worker.settings.lenient,
        )
    except InvalidRequest as error:
        faults = faults + error.errors
    raise InvalidRequest(faults)


async def settled(http: HttpRequest, worker: Worker, jobs: Sequence[Job]) -> None:
    """Wait until all jobs have ended. Raises Refusal, and cancels, if the client leaves first."""
    gone = asyncio.create_task(_gone(http))
    pumps = {job.pump for job in jobs if job.pump is not None}
    try:
        while pumps and not gone.done():
            done, _ = await asyncio.wait({*pumps, gone}, return_when=asyncio.FIRST_COMPLETED)
            pumps -= done
        if pumps:
            raise Refusal(499, "client_left", "The client left before the answer was whole.")
    finally:
        gone.cancel()
        for job in jobs:
            await worker.cancel(job)
    for job in jobs:
        if job.error is not None:
            raise failed(job.error)


def failed(error: Error) -> Refusal:
    """The HTTP form of a job's error."""
    status = STATUS_OF.get(error.code, 500)
    headers = {"Retry-After": "2"} if status == 503 else {}
    return Refusal(status, error.code.lower(), error.message, headers=headers)


def ignored(jobs: Sequence[Job]) -> dict[str, str]:
    """The header that names what --lenient let through, percent-encoded (callers choose names)."""
    started = jobs[0].started
    names = started.sampling.ignored if started is not None else ()
    return {IGNORED: ", ".join(quote(name, safe="") for name in names)} if names else {}


async def _gone(http: HttpRequest) -> None:
    while (await http.receive())["type"] != "http.disconnect":
        pass
