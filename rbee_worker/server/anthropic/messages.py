"""POST /v1/messages and /v1/messages/count_tokens: Anthropic's Messages; streamed or not."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response
from starlette.types import ASGIApp

from rbee_worker.errors import FieldError
from rbee_worker.server.anthropic.prompt import faults_of, messages_of, options_of
from rbee_worker.server.anthropic.schemas import (
    MessageAnswer,
    MessagesEnvelope,
    PromptEnvelope,
    Text,
    Thinking,
    ToolUse,
    Usage,
)
from rbee_worker.server.anthropic.stream import MessageRendering, stop_reason, told
from rbee_worker.server.body import Body, envelope, read_object, unknown_faults
from rbee_worker.server.encoding import answered
from rbee_worker.server.field_names import FieldNames
from rbee_worker.server.health import worker_of
from rbee_worker.server.jobs import Job
from rbee_worker.server.pictures import taken
from rbee_worker.server.problems import json_response
from rbee_worker.server.prompts import prompt_tokens
from rbee_worker.server.requests import (
    ignored,
    new_id,
    refuse_envelope,
    settled,
    time_limit,
)
from rbee_worker.server.schemas import TokenCount
from rbee_worker.server.served_models import served_model
from rbee_worker.server.sse import EventStream
from rbee_worker.server.worker import Worker
from rbee_worker.types import Request

# Anthropic's name -> the worker's
_PARAMS = {
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
    "speculation": "speculation",
    "stop_sequences": "stop",
}
NAMES = FieldNames(
    {
        "stop": "stop_sequences",
        "thinking_budget": "thinking.budget_tokens",
        "tool_choice.function": "tool_choice",
        "json_schema": "output_config.format.schema",
        "reasoning_effort": "output_config.effort",
    }
)


async def create_message(http: HttpRequest) -> ASGIApp:
    """The endpoint of POST /v1/messages."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    worker.serving()
    given, rest, faults = envelope(body, MessagesEnvelope)
    faults += unknown_faults(rest, MessagesEnvelope)
    model = served_model(worker, given.model).name
    params = {own: body.values[name] for name, own in _PARAMS.items() if name in body.values}
    if given.thinking is not None and given.thinking.type == "enabled":
        params["thinking_budget"] = given.thinking.budget_tokens
    if given.output_config is not None and given.output_config.format is not None:
        params["json_schema"] = given.output_config.format.schema
    request = _request(worker, given, new_id("msg"), params, faults)
    with NAMES.used():
        (job,) = await worker.submit([request], keep=False)
    headers = ignored([job])
    if not given.stream:
        await settled(http, worker, [job])
        return await answered(partial(_whole, job, model), job.size, headers)
    return EventStream(
        [job.log],
        MessageRendering(job, model),
        headers=[(k.lower().encode(), v.encode()) for k, v in headers.items()],
        gone=lambda: worker.abandon([job]),
        sent=partial(worker.sent, job),
    )


async def count_tokens(http: HttpRequest) -> Response:
    """The endpoint of POST /v1/messages/count_tokens: the prompt's tokens, without an answer."""
    worker = worker_of(http)
    body: Body = await read_object(http, worker)
    engine = worker.serving()
    given, rest, faults = envelope(body, PromptEnvelope)
    faults += unknown_faults(rest, PromptEnvelope)
    served_model(worker, given.model)
    request = _request(worker, given, "", {}, faults)
    count = await asyncio.to_thread(prompt_tokens, engine, request)
    return json_response(TokenCount(count))


def _request(
    worker: Worker,
    given: PromptEnvelope,
    name: str,
    params: dict[str, Any],
    faults: list[FieldError],
) -> Request:
    """The worker's own request. Raises InvalidRequest if anything is wrong with it."""
    rules = worker.serving().rules
    faults += faults_of(given.messages or [])
    options, found = options_of(given, rules)
    messages, pictures = taken(messages_of(given, faults))
    last = messages[-1] if messages else {}
    continues = last.get("role") == "assistant" and bool(last.get("content"))
    request = Request(
        id=name,
        messages=messages,
        params=params,
        surface="chat",
        timeout_s=time_limit(worker, None),
        continue_final_message=continues or None,
        chat=options,
        pictures=pictures,
    )
    refuse_envelope(worker, faults + found, request, NAMES)
    if not name:
        refuse_all(worker, request)
    return request


def refuse_all(worker: Worker, request: Request) -> None:
    """Raise InvalidRequest with the faults of a request that no engine will check."""
    from rbee_worker.params import check_request

    with NAMES.used():
        check_request(request, worker.serving().rules)


def _whole(job: Job, model: str) -> MessageAnswer:
    """The form that is not streamed."""
    end = job.end
    assert end is not None
    reasoning, text, calls = job.reasoning(), job.text(), job.calls()
    content: list[Text | Thinking | ToolUse] = []
    if reasoning:
        content.append(Thinking(thinking=reasoning))
    if text:
        content.append(Text(text=text))
    content += [ToolUse(id=c.id, name=c.name, input=_object(c.arguments)) for c in calls]
    usage = end.usage
    return MessageAnswer(
        id=job.id,
        model=model,
        content=content,
        stop_reason=stop_reason(end, bool(calls)),
        stop_sequence=end.stop.sequence,
        usage=Usage(
            input_tokens=usage.prompt_tokens - usage.cached_tokens,
            output_tokens=usage.output_tokens,
            cache_read_input_tokens=usage.cached_tokens,
        ),
        rbee=told(job, end),
    )


def _object(arguments: str) -> dict[str, Any]:
    """Arguments as an object; of an answer that was cut they may be none."""
    try:
        value = json.loads(arguments)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
