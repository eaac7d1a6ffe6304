"""POST /v1/chat/completions: messages through the model's template; streamed or not."""

from __future__ import annotations

from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from rbee_worker.errors import FieldError
from rbee_worker.server.body import envelope, plain_messages, read_object
from rbee_worker.server.health import worker_of
from rbee_worker.server.openai.schemas import (
    ChatChoice,
    ChatChunk,
    ChatChunkChoice,
    ChatCompletion,
    ChatDelta,
    ChatEnvelope,
    ChatLogprob,
    ChatLogprobs,
    ChatMessage,
    Rbee,
    TokenUsage,
    TopLogprob,
)
from rbee_worker.server.openai.shared import FINISH, Exchange, Pieces, respond
from rbee_worker.server.requests import (
    check_model,
    fan_out_faults,
    new_id,
    refuse_envelope,
    stream_faults,
    time_limit,
)
from rbee_worker.types import End, Event, Request, Started, Token, TokenLogprob


async def chat_completions(http: HttpRequest) -> ASGIApp:
    """The endpoint of the route."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    worker.generating()
    given, params, faults = envelope(body, ChatEnvelope)
    model = check_model(worker, given.model)
    messages, found = plain_messages(given.messages or [])
    faults += found + stream_faults(given.stream, given.stream_options)
    faults += fan_out_faults(worker, 1, given.n)
    both = given.chat_template_kwargs.keys() & given.template_args.keys()
    faults += [FieldError(f"template_args.{n[:64]}", "once", "is in both") for n in sorted(both)]
    answer_id = new_id("chatcmpl")
    request = Request(
        id=f"{answer_id}-0",
        messages=messages,
        params=params,
        surface="chat",
        timeout_s=time_limit(worker, given.timeout_s),
        template_args={**given.chat_template_kwargs, **given.template_args},
        add_generation_prompt=given.add_generation_prompt,
        continue_final_message=given.continue_final_message,
        add_special_tokens=given.add_special_tokens,
    )
    refuse_envelope(worker, faults, request)
    requests = [replace(request, id=f"{answer_id}-{c}", choice=c) for c in range(given.n)]
    jobs = await worker.submit(requests, keep=False)
    exchange = Exchange(worker, answer_id, model, jobs)
    return await respond(
        http,
        worker,
        exchange,
        prompts=1,
        stream=given.stream,
        options=given.stream_options,
        chunks=lambda usage: ChatChunks(exchange, usage),
        whole=lambda: _whole(exchange),
    )


def scores(
    pieces: Pieces, ids: tuple[int, ...], entries: tuple[TokenLogprob, ...] | None
) -> ChatLogprobs | None:
    """The logprobs of the tokens `ids`."""
    if entries is None:
        return None
    return ChatLogprobs(
        [
            ChatLogprob(
                pieces.name(token_id),
                entry.logprob,
                list(pieces.raw(token_id)),
                [TopLogprob(pieces.name(i), p, list(pieces.raw(i))) for i, p in entry.top],
            )
            for token_id, entry in zip(ids, entries, strict=True)
        ]
    )


class ChatChunks:
    """The streamed form."""

    def __init__(self, exchange: Exchange, usage: bool) -> None:
        self._exchange = exchange
        self._usage: UnsetType | None = None if usage else UNSET

    def chunks(self, choice: int, event: Event) -> list[ChatChunk]:
        if type(event) is Token:
            found = scores(self._exchange.pieces, event.ids, event.logprobs)
            return [self._chunk(choice, ChatDelta(content=event.t), found)]
        if type(event) is Started:
            return [self._chunk(choice, ChatDelta(role="assistant", content=""))]
        if type(event) is End:
            delta = ChatDelta(content=event.text or None)
            found = scores(self._exchange.pieces, event.ids, event.logprobs)
            finish = FINISH.get(event.stop.rule, "stop")
            return [self._chunk(choice, delta, found, finish, self._exchange.rbee(choice))]
        return []

    def usage_chunk(self, usage: TokenUsage) -> ChatChunk:
        exchange = self._exchange
        return ChatChunk(
            id=exchange.id, created=exchange.created, model=exchange.model, choices=[], usage=usage
        )

    def _chunk(
        self,
        choice: int,
        delta: ChatDelta,
        found: ChatLogprobs | None = None,
        finish: str | None = None,
        rbee: Rbee | UnsetType = UNSET,
    ) -> ChatChunk:
        exchange = self._exchange
        row = ChatChunkChoice(
            index=choice, delta=delta, logprobs=found, finish_reason=finish, rbee=rbee
        )
        return ChatChunk(
            id=exchange.id,
            created=exchange.created,
            model=exchange.model,
            choices=[row],
            usage=self._usage,
        )


def _whole(exchange: Exchange) -> ChatCompletion:
    """The form that is not streamed."""
    choices = []
    for index, job in enumerate(exchange.jobs):
        end = job.end
        assert end is not None
        parts = [e for e in job.log.events if isinstance(e, Token | End)]
        found = [scores(exchange.pieces, e.ids, e.logprobs) for e in parts]
        entries = [row for s in found if s is not None for row in s.content]
        asked = any(s is not None for s in found)
        choices.append(
            ChatChoice(
                index=index,
                message=ChatMessage(content=job.text()),
                logprobs=ChatLogprobs(entries) if asked else None,
                finish_reason=FINISH.get(end.stop.rule, "stop"),
                rbee=exchange.rbee(index),
            )
        )
    return ChatCompletion(
        id=exchange.id,
        created=exchange.created,
        model=exchange.model,
        choices=choices,
        usage=exchange.usage(1),
    )
