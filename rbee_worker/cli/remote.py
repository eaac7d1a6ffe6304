"""A worker elsewhere, used like an engine in this process: what `chat --url` talks to."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from rbee_worker import types, wire
from rbee_worker.cli.images import with_urls
from rbee_worker.cli.terminal import note
from rbee_worker.client import AsyncClient, AsyncJob
from rbee_worker.model_info import ModelInfo
from rbee_worker.params import Rules
from rbee_worker.params.resolve import WORKER_OPTION
from rbee_worker.sequence_end import Usage
from rbee_worker.types import Request

TOKEN_ENV = "RBEE_API_TOKEN"


class RemoteClient:
    """The part of `EngineClient` that a conversation needs, over HTTP. A stream resumes after its
    connection breaks.

    info: of the worker's model. rules: what parameters are held to. chat: whether the model has a
    chat template.
    """

    def __init__(self, client: AsyncClient, info: ModelInfo, rules: Rules, chat: bool) -> None:
        self.info: ModelInfo | None = info
        self.chat: object | None = client if chat else None
        self._client = client
        self._jobs: dict[str, AsyncJob] = {}
        self.rules = rules

    async def generate(self, request: Request) -> AsyncIterator[types.Event]:
        """The events of one job. Raises Refused, Unreachable, StreamBroken."""
        assert request.messages is not None
        messages = list(with_urls(request.messages, request.pictures))
        job = await self._client.submit(messages=messages, chat_defaults=True, **request.params)
        self._jobs[request.id] = job
        ended = False
        try:
            async for event in job.events():
                yield event_of(event)
            ended = True
        finally:
            del self._jobs[request.id]
            if not ended:
                await job.cancel()

    async def cancel(self, request_id: str) -> None:
        """End a request; its `End` event follows."""
        if request_id in self._jobs:
            await self._jobs[request_id].cancel()


@asynccontextmanager
async def open_worker(url: str) -> AsyncIterator[RemoteClient]:
    """The worker at `url`, called with the token in RBEE_API_TOKEN. Raises Unreachable, Refused."""
    async with AsyncClient(url, os.environ.get(TOKEN_ENV, "")) as client:
        info = await client.info()
        for text in _model(info).notes:
            note(text)
        chats = bool(info.get("chat_template", True))
        yield RemoteClient(client, _model(info), _rules(info), chats)


def _rules(info: dict[str, Any]) -> Rules:
    """The worker's rules, as far as its /info tells them."""
    told = info.get("defaults", {}).get("chat", {})

    def given_by(origin: str) -> dict[str, Any]:
        return {name: one["value"] for name, one in told.items() if one["origin"] == origin}

    model = _model(info)
    return Rules(
        context=model.context,
        vocab_size=model.vocab_size,
        worker=given_by(WORKER_OPTION),
        generation=given_by("generation_config"),
        pictures=bool((info.get("purpose") or {}).get("pictures")),
    )


def _model(info: dict[str, object]) -> ModelInfo:
    """The part of the worker's /info that a conversation shows; figures it does not give are 0."""
    known = {"model": info["model_id"], "block_size": 0, "kv_tokens": 0, "n_layers": 0}
    for name in ("arch", "device", "backend", "dtype", "kv_dtype", "speculate"):
        known[name] = info.get(name, "unknown")
    known["notes"] = info.get("notes", ())
    for name in ("context", "vocab_size", "n_parameters", "weight_bytes", "kv_bytes"):
        known[name] = info.get(name, 0)
    return msgspec.convert(known, ModelInfo)


def event_of(event: wire.JobEvent) -> types.Event:
    """The event that a wire event describes; the texts of single ids are dropped."""
    match event:
        case wire.Token():
            return types.Token(
                t=event.t, i=event.i, ids=event.ids, reasoning=event.reasoning, calls=event.calls
            )
        case wire.End():
            usage = Usage(
                prompt_tokens=event.prompt_tokens,
                cached_tokens=event.cached_tokens,
                output_tokens=event.tokens_out,
                queue_ms=event.queue_time_ms,
                prefill_ms=event.prefill_time_ms,
                decode_ms=event.decode_time_ms,
                preemptions=event.preemptions,
                drafted_tokens=event.drafted_tokens,
                accepted_tokens=event.accepted_tokens,
                reasoning_tokens=event.reasoning_tokens,
            )
            return types.End(
                stop=event.stop,
                usage=usage,
                ids=event.ids,
                text=event.text,
                reasoning=event.reasoning or "",
                calls=event.calls or (),
            )
        case wire.Started():
            values = {name: resolved.value for name, resolved in event.sampling.items()}
            origins = {name: resolved.origin for name, resolved in event.sampling.items()}
            params = msgspec.convert(values, types.SamplingParams, strict=False)
            return types.Started(
                job_id=event.job_id,
                model=event.model,
                started_at=event.started_at,
                prompt_tokens=event.prompt_tokens,
                seed=event.seed,
                sampling=types.Resolved(params=params, origins=origins),
                warnings=event.warnings,
            )
        case wire.PromptLogprobs():
            return types.PromptLogprobs(logprobs=())
        case wire.Narration():
            return msgspec.convert(msgspec.to_builtins(event), types.Narration)
        case wire.Metrics():
            return msgspec.convert(msgspec.to_builtins(event), types.Metrics)
        case wire.Error():
            return msgspec.convert(msgspec.to_builtins(event), types.Error)
