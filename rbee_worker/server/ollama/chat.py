"""POST /api/chat and /api/generate; streamed, unless `stream` is false."""

from __future__ import annotations

from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from rbee_worker.errors import FieldError
from rbee_worker.server.body import Body, envelope, read_object, unknown_faults
from rbee_worker.server.encoding import answered
from rbee_worker.server.health import worker_of
from rbee_worker.server.infilling import gap_prompt, gap_tokens
from rbee_worker.server.ollama.answer import Lines, now
from rbee_worker.server.ollama.names import named
from rbee_worker.server.ollama.options import NAMES, params_of, thinking_of
from rbee_worker.server.ollama.prompt import messages_of, shown
from rbee_worker.server.ollama.schemas import (
    AnsweredMessage,
    AnswerEnvelope,
    ChatEnvelope,
    ChatLine,
    GenerateEnvelope,
    GenerateLine,
)
from rbee_worker.server.openai.shared import Pieces
from rbee_worker.server.pictures import several, taken
from rbee_worker.server.problems import json_response
from rbee_worker.server.requests import ignored, new_id, refuse_envelope, settled, time_limit
from rbee_worker.server.sse import JSON_LINES, EventStream
from rbee_worker.server.worker import Worker
from rbee_worker.types import ChatOptions, Request

_REFUSED = {  # field of /api/generate -> what it asks for
    "template": "a template of the request's own",
    "context": "the state of an earlier answer: use /api/chat",
    "width": "pictures",
    "height": "pictures",
    "steps": "pictures",
}


async def chat(http: HttpRequest) -> ASGIApp:
    """The endpoint of POST /api/chat."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    rules = worker.generating().rules
    given, rest, faults = envelope(body, ChatEnvelope)
    faults += unknown_faults(rest, ChatEnvelope)
    if not given.messages and not faults:
        return _loaded(worker, given, chat=True)
    enable, effort = thinking_of(given, rules, faults)
    messages, pictures = taken(messages_of(given.messages or (), faults))
    request = Request(
        id=new_id("chat"),
        messages=messages,
        pictures=pictures,
        params=params_of(given, body.values, rules, faults),
        surface="chat",
        timeout_s=time_limit(worker, None),
        chat=ChatOptions(
            tools=tuple(body.values.get("tools") or ()) if given.tools else (),
            enable_thinking=enable,
            reasoning_effort=effort,
        ),
    )
    return await _answer(http, worker, given, request, faults, chat=True)


async def generate(http: HttpRequest) -> ASGIApp:
    """The endpoint of POST /api/generate."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    worker.generating()
    given, rest, faults = envelope(body, GenerateEnvelope)
    faults += unknown_faults(rest, GenerateEnvelope)
    faults += [
        FieldError(name, "absent", f"{what}: not implemented")
        for name, what in _REFUSED.items()
        if getattr(given, name) not in (None, "", [])
    ]
    if not (given.prompt or given.suffix or given.images) and not faults:
        return _loaded(worker, given, chat=False)
    return await _answer(
        http, worker, given, _prompted(worker, given, body, faults), faults, chat=False
    )


def _prompted(
    worker: Worker, given: GenerateEnvelope, body: Body, faults: list[FieldError]
) -> Request:
    """The request of /api/generate: a user's turn, a raw prompt, or a gap to fill."""
    engine = worker.generating()
    rules = engine.rules
    enable, effort = thinking_of(given, rules, faults)
    request: dict[str, Any] = {
        "id": new_id("generate"),
        "params": params_of(given, body.values, rules, faults),
        "surface": "chat",
        "timeout_s": time_limit(worker, None),
        "chat": ChatOptions(enable_thinking=enable, reasoning_effort=effort),
    }
    if given.suffix:
        if given.images:
            faults.append(FieldError("images", "without suffix", "means nothing in a gap"))
        tokens = gap_tokens(engine.tokenizer)
        if tokens is None:
            message = "this model has no tokens for filling a gap"
            faults.append(FieldError("suffix", "absent", message))
            return Request(prompt=given.prompt or "?", **request)
        ids = gap_prompt(engine.tokenizer, tokens, given.prompt or "", given.suffix)
        return Request(token_ids=ids, **request)
    if given.raw:
        if given.system:
            faults.append(FieldError("system", "without raw", "means nothing in a raw prompt"))
        files = several(given.images or (), "images", faults)
        return Request(prompt=given.prompt or "", pictures=files, **request)
    talk: list[dict[str, Any]] = [{"role": "user", "content": given.prompt or ""}]
    if given.images:
        talk[0]["content"] = shown(given.prompt, given.images, "images", faults)
    if given.system:
        talk.insert(0, {"role": "system", "content": given.system})
    messages, pictures = taken(talk)
    return Request(messages=messages, pictures=pictures, **request)


async def _answer(
    http: HttpRequest,
    worker: Worker,
    given: AnswerEnvelope,
    request: Request,
    faults: list[FieldError],
    *,
    chat: bool,
) -> ASGIApp:
    model = named(worker, given.model)
    refuse_envelope(worker, faults, request, NAMES)
    with NAMES.used():
        (job,) = await worker.submit([request], keep=False)
    lines = Lines(job, model.name, Pieces(worker), chat=chat)
    headers = ignored([job])
    if not given.stream:
        await settled(http, worker, [job])
        return await answered(lines.whole, job.size, headers)
    return EventStream(
        [job.log],
        lines,
        headers=[(k.lower().encode(), v.encode()) for k, v in headers.items()],
        kind=JSON_LINES,
        gone=lambda: worker.abandon([job]),
        sent=partial(worker.sent, job),
    )


def _loaded(worker: Worker, given: AnswerEnvelope, *, chat: bool) -> ASGIApp:
    """The answer to a request without a prompt, by which clients have a model loaded: it is."""
    model = named(worker, given.model)
    told: dict[str, Any] = {"model": model.name, "created_at": now(), "done": True}
    line: ChatLine | GenerateLine = GenerateLine(response="", done_reason="load", **told)
    if chat:
        line = ChatLine(message=AnsweredMessage(), done_reason="load", **told)
    return json_response(line)
