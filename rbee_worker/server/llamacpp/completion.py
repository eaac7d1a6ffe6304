"""POST /completion and /infill; streamed or not."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from msgspec.structs import replace
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from rbee_worker.errors import FieldError
from rbee_worker.params import prompt_faults
from rbee_worker.server.body import Body, envelope, read_object, unknown_faults
from rbee_worker.server.encoding import answered
from rbee_worker.server.given_texts import Prompt
from rbee_worker.server.health import worker_of
from rbee_worker.server.infilling import Extra, gap_prompt, gap_tokens
from rbee_worker.server.llamacpp.answer import Completions, prompt_texts
from rbee_worker.server.llamacpp.prompts import MARK, Shown, prompts_of, several
from rbee_worker.server.llamacpp.schemas import (
    CompletionEnvelope,
    InfillEnvelope,
    OptionsEnvelope,
)
from rbee_worker.server.llamacpp.settings import NAMES, params_of
from rbee_worker.server.openai.completions import MAX_PROMPTS
from rbee_worker.server.openai.shared import Pieces
from rbee_worker.server.problems import Refusal
from rbee_worker.server.requests import (
    fan_out_faults,
    ignored,
    new_id,
    refuse_envelope,
    settled,
    time_limit,
)
from rbee_worker.server.served_models import served_model
from rbee_worker.server.sse import EventStream
from rbee_worker.server.worker import Worker
from rbee_worker.types import Request


async def completion(http: HttpRequest) -> ASGIApp:
    """The endpoint of POST /completion."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    engine = worker.generating()
    given, rest, faults = envelope(body, CompletionEnvelope)
    faults += unknown_faults(rest, CompletionEnvelope)
    make = partial(prompts_of, given.prompt, MAX_PROMPTS, engine.tokenizer, faults)
    quick = isinstance(given.prompt, str)
    prompts = make() if quick else await asyncio.to_thread(make)
    return await _answer(http, worker, given, body, prompts, faults)


async def infill(http: HttpRequest) -> ASGIApp:
    """The endpoint of POST /infill."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    engine = worker.generating()
    tokens = gap_tokens(engine.tokenizer)
    if tokens is None:
        message = "This model has no tokens for filling a gap."
        fix = "send a prompt to /completion, or use a model for code."
        raise Refusal(400, "not_supported", message, fix=fix)
    given, rest, faults = envelope(body, InfillEnvelope)
    faults += unknown_faults(rest, InfillEnvelope)
    for name in ("input_prefix", "input_suffix"):
        if getattr(given, name) is None and not any(f.field == name for f in faults):
            faults.append(FieldError(name, "required", "is required"))
    make = partial(
        gap_prompt,
        engine.tokenizer,
        tokens,
        given.input_prefix or "",
        given.input_suffix or "",
        begun=given.prompt or "",
        extra=[Extra(one.filename, one.text) for one in given.input_extra or ()],
    )
    return await _answer(http, worker, given, body, [await asyncio.to_thread(make)], faults)


async def _answer(
    http: HttpRequest,
    worker: Worker,
    given: OptionsEnvelope,
    body: Body,
    prompts: Sequence[Prompt | Shown],
    faults: list[FieldError],
) -> ASGIApp:
    model = served_model(worker, given.model)
    engine = worker.serving()
    params, found = params_of(given, body.values, engine.tokenizer)
    n = given.n_cmpl or given.n or 1
    faults += found + fan_out_faults(worker, len(prompts), n)
    requests = _requests(worker, given, prompts, params)
    if several(body.values.get("prompt")):  # one prompt is checked together with its parameters
        for place, request in enumerate(requests):
            faults += prompt_faults(request, engine.rules, name=f"prompt[{place}]")
            await asyncio.sleep(0)
    sound = Request(id="", prompt="?", params=params, surface="chat")
    refuse_envelope(worker, faults, requests[0] if len(requests) == 1 else sound, NAMES)
    answer_id = new_id("completion")
    each = [
        replace(request, id=f"{answer_id}-{index * n + choice}", choice=choice)
        for index, request in enumerate(requests)
        for choice in range(n)
    ]
    with NAMES.used():
        jobs = await worker.submit(each, keep=False)
    pieces = Pieces(worker)
    texts = await prompt_texts(jobs, pieces)
    answers = Completions(
        jobs,
        model.name,
        pieces,
        texts,
        stream=given.stream,
        tokens=given.return_tokens,
        fields=given.response_fields or (),
    )
    headers = ignored(jobs)
    if not given.stream:
        await settled(http, worker, jobs)
        size = sum(job.size for job in jobs) + sum(map(len, texts)) // 4
        return await answered(answers.whole, size, headers)
    return EventStream(
        [job.log for job in jobs],
        answers,
        headers=[(k.lower().encode(), v.encode()) for k, v in headers.items()],
        gone=lambda: worker.abandon(jobs),
        sent=partial(worker.sent, jobs[0]),
    )


def _requests(
    worker: Worker,
    given: OptionsEnvelope,
    prompts: Sequence[Prompt | Shown],
    params: dict[str, Any],
) -> list[Request]:
    """One for each prompt. The defaults are those of chats, which are llama.cpp's too."""
    return [
        replace(
            _prompted(worker, prompt),
            params=params,
            surface="chat",
            timeout_s=time_limit(worker, given.timeout_s),
        )
        for prompt in prompts
    ]


def _prompted(worker: Worker, prompt: Prompt | Shown) -> Request:
    if isinstance(prompt, Shown):
        side = worker.serving().pictures
        mark = MARK if side is None else side.placeholder
        return Request(id="", prompt=prompt.text.replace(MARK, mark), pictures=prompt.files)
    if isinstance(prompt, str):
        return Request(id="", prompt=prompt)
    return Request(id="", token_ids=prompt)
