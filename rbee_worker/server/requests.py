"""From a checked envelope to requests for the engine: code that every inference route shares."""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

from msgspec.structs import replace
from starlette.requests import Request as HttpRequest

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.params import PROMPTS, chat_options, check_request
from rbee_worker.server.auth import IGNORED
from rbee_worker.server.body import Body, plain_messages
from rbee_worker.server.field_names import SAME, FieldNames
from rbee_worker.server.jobs import Job
from rbee_worker.server.openai.schemas import StreamOptions
from rbee_worker.server.pictures import several, taken
from rbee_worker.server.problems import Refusal
from rbee_worker.server.schemas import InferEnvelope
from rbee_worker.server.worker import Worker
from rbee_worker.types import Error, Request

FAILURES = {  # code of a job's error -> (status, fix)
    "VRAM_OOM": (507, "ask for fewer tokens, or for fewer answers at a time."),
    "ENGINE_LOST": (503, "ask again."),
    "INVALID_REQUEST": (400, "correct the request."),
}


def new_id(prefix: str) -> str:
    """A new id such as "job-3f2a..."."""
    return f"{prefix}-{uuid.uuid4().hex}"


def time_limit(worker: Worker, asked: float | None) -> float | None:
    """Seconds that the request may take: the smaller of --request-timeout and the requested
    time."""
    limits = [s for s in (asked, worker.settings.request_timeout or None) if s is not None]
    return min(limits) if limits else None


def ask(
    worker: Worker,
    body: Body,
    given: InferEnvelope,
    params: dict[str, Any],
    faults: list[FieldError],
    job_id: str,
) -> Request:
    """The request of a job or of /v1/infer. Raises InvalidRequest if the envelope has faults."""
    messages, pictures = None, several(given.images or (), "images", faults)
    if given.messages is not None:
        if pictures:
            message = "belong in the messages, as parts of the type image_url"
            faults.append(FieldError("images", "without messages", message))
        told, found = plain_messages(given.messages)
        messages, pictures = taken(told)
        faults += found
    chat = chat_options(given, body.values.get("tools") or ())
    request = Request(
        id=job_id,
        chat=replace(chat, chat_defaults=given.chat_defaults),
        prompt=given.prompt,
        messages=messages,
        token_ids=None if given.token_ids is None else tuple(given.token_ids),
        params=params,
        surface="job",
        timeout_s=time_limit(worker, given.timeout_s),
        template_args=given.template_args,
        add_generation_prompt=given.add_generation_prompt,
        continue_final_message=given.continue_final_message,
        add_special_tokens=given.add_special_tokens,
        pictures=pictures,
    )
    refuse_envelope(worker, faults, request)
    return request


def refuse_envelope(
    worker: Worker, faults: list[FieldError], request: Request, names: FieldNames = SAME
) -> None:
    """If the envelope has `faults`, raise them together with all other faults of `request`, which
    are told under `names`.

    A correct envelope is not checked further here: the engine's client checks every request.
    """
    if not faults:
        return
    others: list[FieldError] = []
    try:
        check_request(request, worker.serving().rules)
    except InvalidRequest as error:
        others = [names.told(fault) for fault in error.errors]
    told = {_base(fault) for fault in faults}
    prompts = {*PROMPTS, *(names.names.get(name, name) for name in PROMPTS)}
    if told & prompts:  # a prompt that the envelope could not read is not also reported missing
        others = [fault for fault in others if _base(fault) not in prompts]
    raise InvalidRequest(faults + others)


def _base(fault: FieldError) -> str:
    """The body's key of a fault: "messages[3].content" -> "messages"."""
    return re.split(r"[.\[]", fault.field, maxsplit=1)[0]


def stream_faults(stream: bool, options: StreamOptions | None) -> list[FieldError]:
    """Faults of stream_options that would have no effect."""
    if options is None:
        return []
    faults = []
    if not stream:
        message = "has no effect without stream: true"
        faults.append(FieldError("stream_options", "with stream", message))
    if options.include_obfuscation:
        name, message = "stream_options.include_obfuscation", "is not implemented"
        faults.append(FieldError(name, "false (not implemented)", message))
    return faults


def fan_out_faults(worker: Worker, prompts: int, n: int) -> list[FieldError]:
    """The fault of asking for more answers than the worker can ever hold: waiting would not
    help."""
    most = worker.settings.max_seqs + worker.settings.max_queue
    if prompts * n <= most:
        return []
    what = f"{prompts} prompts with n = {n}" if prompts > 1 else f"n = {n}"
    message = f"{what} are {prompts * n} answers; this worker holds {most} at a time"
    return [FieldError("n" if n > 1 else "prompt", f"<= {most} answers", message)]


async def settled(http: HttpRequest, worker: Worker, jobs: Sequence[Job]) -> None:
    """Wait until all jobs have ended. If the client leaves first, cancel them and raise Refusal."""
    gone = asyncio.create_task(client_gone(http))
    pumps = {job.pump for job in jobs if job.pump is not None}
    try:
        while pumps and not gone.done():
            done, _ = await asyncio.wait({*pumps, gone}, return_when=asyncio.FIRST_COMPLETED)
            pumps -= done
        if pumps:
            message = "The client left before the answer was complete."
            raise Refusal(499, "client_left", message, fix="wait for the whole answer.")
    finally:
        gone.cancel()
        for job in jobs:
            await worker.cancel(job)
    for job in jobs:
        if job.error is not None:
            raise failed(job.error)


def failed(error: Error) -> Refusal:
    """The HTTP form of a job's error."""
    status, fix = FAILURES.get(error.code, (500, "try again; the worker's log says more."))
    headers = {"Retry-After": "2"} if status == 503 else {}
    message, _, own = error.message.partition(" Fix: ")
    return Refusal(status, error.code.lower(), message, fix=own or fix, headers=headers)


def ignored(jobs: Sequence[Job]) -> dict[str, str]:
    """The header that lists what --lenient let through, percent-encoded (callers choose names)."""
    started = jobs[0].started
    names = started.sampling.ignored if started is not None else ()
    return {IGNORED: ", ".join(quote(name, safe="") for name in names)} if names else {}


async def client_gone(http: HttpRequest) -> None:
    """Wait until the client has left."""
    while (await http.receive())["type"] != "http.disconnect":
        pass
