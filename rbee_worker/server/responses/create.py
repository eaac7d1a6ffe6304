"""POST /v1/responses and /v1/responses/input_tokens."""

from __future__ import annotations

import asyncio
import time
import uuid
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp

from rbee_worker.errors import FieldError
from rbee_worker.params import check_request
from rbee_worker.params.request import characters
from rbee_worker.server.body import Body, envelope, read_object, unknown_faults
from rbee_worker.server.encoding import answered
from rbee_worker.server.health import worker_of
from rbee_worker.server.openai.shared import Pieces
from rbee_worker.server.pictures import taken
from rbee_worker.server.problems import json_response
from rbee_worker.server.prompts import prompt_tokens
from rbee_worker.server.requests import ignored, refuse_envelope, settled, time_limit
from rbee_worker.server.responses.answer import ResponseRendering, answer_of
from rbee_worker.server.responses.asked import (
    NAMES,
    answer_faults,
    options_of,
    params_of,
    prompt_faults,
)
from rbee_worker.server.responses.items import messages_of
from rbee_worker.server.responses.kept import Kept
from rbee_worker.server.responses.schemas import (
    InputTokens,
    PromptEnvelope,
    ResponseAnswer,
    ResponseEnvelope,
)
from rbee_worker.server.served_models import served_model
from rbee_worker.server.sse import EventStream
from rbee_worker.server.worker import Worker
from rbee_worker.types import Request

Messages = tuple[dict[str, Any], ...]
_AS_TEXT = 3  # what a byte of a picture counts: it is kept as a file and, in base64, as an item


async def create_response(http: HttpRequest) -> ASGIApp:
    """The endpoint of POST /v1/responses."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    worker.generating()
    given, rest, faults = envelope(body, ResponseEnvelope)
    faults += unknown_faults(rest, ResponseEnvelope) + answer_faults(given)
    model = served_model(worker, given.model)
    suffix = uuid.uuid4().hex
    talk = _conversation(worker, given, faults)
    messages, pictures = taken(_with_instructions(given, talk))
    request = Request(
        id=f"resp_{suffix}",
        messages=messages,
        pictures=pictures,
        params=params_of(given, body.values),
        surface="chat",
        timeout_s=time_limit(worker, None),
        chat=options_of(given, faults),
    )
    refuse_envelope(worker, faults, request, NAMES)
    with NAMES.used():
        (job,) = await worker.submit([request], keep=False)
    kept = Kept(
        id=request.id,
        created=int(time.time()),
        model=model.name,
        given=given,
        tools=tuple(given.tools or ()),
        messages=talk,
        items=_items(given, suffix),
        job=job,
        pieces=Pieces(worker),
        characters=characters(talk) + _AS_TEXT * sum(len(file.data) for file in pictures),
    )
    if given.store:
        worker.responses.add(kept)
    headers = ignored([job])
    if given.stream:
        return EventStream(
            [job.log],
            ResponseRendering(kept),
            headers=[(k.lower().encode(), v.encode()) for k, v in headers.items()],
            gone=None if given.background else lambda: worker.abandon([job]),
            sent=partial(worker.sent, job),
        )
    if given.background:
        return json_response(answer_of(kept, kept.output()), headers=headers)
    await settled(http, worker, [job])
    return await answered(partial(_whole, kept), job.size, headers)


async def count_input_tokens(http: HttpRequest) -> Response:
    """The endpoint of POST /v1/responses/input_tokens: the prompt's tokens, without an answer."""
    worker = worker_of(http)
    body: Body = await read_object(http, worker)
    engine = worker.serving()
    given, rest, faults = envelope(body, PromptEnvelope)
    faults += unknown_faults(rest, PromptEnvelope)
    served_model(worker, given.model)
    talk = _conversation(worker, given, faults)
    messages, pictures = taken(_with_instructions(given, talk))
    request = Request(
        id="",
        messages=messages,
        pictures=pictures,
        surface="chat",
        chat=options_of(given, faults),
    )
    rules = engine.rules
    refuse_envelope(worker, faults, request, NAMES)
    with NAMES.used():
        check_request(request, rules)
    count = await asyncio.to_thread(prompt_tokens, engine, request)
    return json_response(InputTokens(input_tokens=count))


def _conversation(worker: Worker, given: PromptEnvelope, faults: list[FieldError]) -> Messages:
    """The messages of the kept response that is continued, if any, and of `input`; faults are added
    to `faults`. Raises Refusal 404."""
    faults += prompt_faults(given)
    before: Messages = ()
    if given.previous_response_id is not None:
        name = "previous_response_id"
        previous = worker.responses.find(given.previous_response_id, param=name)
        if previous.job.live:
            faults.append(FieldError(name, "an answer that has ended", "is still in progress"))
        before = previous.conversation()
    if any(fault.field == "input" for fault in faults):
        return before
    return (*before, *messages_of(given.input or [], worker.responses.item, faults))


def _with_instructions(given: PromptEnvelope, talk: Messages) -> Messages:
    if not given.instructions:
        return talk
    return ({"role": "system", "content": given.instructions}, *talk)


def _items(given: ResponseEnvelope, suffix: str) -> list[dict[str, Any]]:
    """The input as a list of items with ids."""
    items: list[Any] = given.input if isinstance(given.input, list) else []
    if isinstance(given.input, str):
        items = [{"role": "user", "content": given.input}]
    return [_item(item, f"msg_{suffix}i{place}") for place, item in enumerate(items)]


def _item(item: dict[str, Any], new: str) -> dict[str, Any]:
    if "role" not in item:
        return {**item, "id": item.get("id") or new}
    content = item["content"]
    if isinstance(content, str):
        kind = "output_text" if item["role"] == "assistant" else "input_text"
        content = [{"type": kind, "text": content}]
    found = {"type": "message", "status": "completed", **item, "content": content}
    if found["role"] == "assistant":
        found["content"] = [{"annotations": [], **part} for part in content]
    return {**found, "id": item.get("id") or new}


def _whole(kept: Kept) -> ResponseAnswer:
    """The form that is not streamed."""
    return answer_of(kept, kept.output())
