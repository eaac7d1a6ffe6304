"""POST /v1/chat/completions: messages through the model's template; streamed or not."""

from __future__ import annotations

from msgspec import UNSET, UnsetType
from msgspec.structs import replace
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from rbee_worker.answer_parts import CallPiece
from rbee_worker.errors import FieldError
from rbee_worker.params import chat_options
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
    DeltaCall,
    DeltaFunction,
    Function,
    Rbee,
    TokenUsage,
    ToolCall,
    TopLogprob,
)
from rbee_worker.server.openai.shared import Exchange, Pieces, finish_reason, respond
from rbee_worker.server.pictures import taken
from rbee_worker.server.requests import (
    fan_out_faults,
    new_id,
    refuse_envelope,
    stream_faults,
    time_limit,
)
from rbee_worker.server.served_models import served_model
from rbee_worker.types import End, Event, Request, Started, Token, TokenLogprob


async def chat_completions(http: HttpRequest) -> ASGIApp:
    """The endpoint of the route."""
    worker = worker_of(http)
    body = await read_object(http, worker)
    worker.generating()
    given, params, faults = envelope(body, ChatEnvelope)
    model = served_model(worker, given.model).name
    told, found = plain_messages(given.messages or [])
    messages, pictures = taken(told)
    faults += found + stream_faults(given.stream, given.stream_options)
    faults += fan_out_faults(worker, 1, given.n)
    both = given.chat_template_kwargs.keys() & given.template_args.keys()
    faults += [FieldError(f"template_args.{n[:64]}", "once", "is in both") for n in sorted(both)]
    answer_id = new_id("chatcmpl")
    request = Request(
        id=f"{answer_id}-0",
        chat=chat_options(given, body.values.get("tools") or ()),
        messages=messages,
        params=params,
        surface="chat",
        timeout_s=time_limit(worker, given.timeout_s),
        template_args={**given.chat_template_kwargs, **given.template_args},
        add_generation_prompt=given.add_generation_prompt,
        continue_final_message=given.continue_final_message,
        add_special_tokens=given.add_special_tokens,
        pictures=pictures,
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
        chunks=lambda usage: ChatChunks(exchange, usage, tools=bool(request.chat.offered)),
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


def call_deltas(call: CallPiece) -> list[DeltaCall]:
    """A piece of a call as OpenAI streams it: id and name first, with no arguments yet."""
    deltas = []
    if call.name:
        head = DeltaFunction(name=call.name, arguments="")
        deltas.append(DeltaCall(index=call.index, id=call.id, type="function", function=head))
    if call.arguments:
        function = DeltaFunction(arguments=call.arguments)
        deltas.append(DeltaCall(index=call.index, function=function))
    return deltas


class ChatChunks:
    """The streamed form."""

    def __init__(self, exchange: Exchange, usage: bool, *, tools: bool) -> None:
        """tools: the model was shown some, so that there may be no text."""
        self._exchange = exchange
        self._opening: str | None = None if tools else ""
        self._usage: UnsetType | None = None if usage else UNSET
        self._called: set[int] = set()  # choices with tool calls
        self._spoken: set[int] = set()  # choices that have anything

    def chunks(self, choice: int, event: Event) -> list[ChatChunk]:
        if type(event) is Token:
            found = scores(self._exchange.pieces, event.ids, event.logprobs)
            first, *others = self._deltas(choice, event, event.t) or [ChatDelta()]
            chunks = [self._chunk(choice, first, found)]
            return chunks + [self._chunk(choice, delta) for delta in others]
        if type(event) is Started:
            return [self._chunk(choice, ChatDelta(role="assistant", content=self._opening))]
        if type(event) is End:
            deltas = self._deltas(choice, event, event.text)
            nothing = ChatDelta(content=None if choice in self._spoken else "")
            last = deltas.pop() if deltas else nothing
            found = scores(self._exchange.pieces, event.ids, event.logprobs)
            finish = finish_reason(event, choice in self._called)
            chunks = [self._chunk(choice, delta) for delta in deltas]
            return [*chunks, self._chunk(choice, last, found, finish, self._exchange.rbee(choice))]
        return []

    def _deltas(self, choice: int, event: Token | End, text: str) -> list[ChatDelta]:
        """The parts of an event, in order."""
        deltas = []
        if event.reasoning:
            deltas.append(ChatDelta(reasoning_content=event.reasoning))
        if text:
            deltas.append(ChatDelta(content=text))
        if text or event.calls:
            self._spoken.add(choice)
        for call in event.calls:
            self._called.add(choice)
            deltas += [ChatDelta(tool_calls=[piece]) for piece in call_deltas(call)]
        return deltas

    def usage_chunk(self, usage: TokenUsage) -> ChatChunk:
        exchange = self._exchange
        return ChatChunk(
            id=exchange.id,
            created=exchange.created,
            model=exchange.model,
            system_fingerprint=exchange.fingerprint,
            choices=[],
            usage=usage,
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
            system_fingerprint=exchange.fingerprint,
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
        calls = [
            ToolCall(id=c.id, function=Function(name=c.name, arguments=c.arguments))
            for c in job.calls()
        ]
        message = ChatMessage(
            content=(job.text() or None) if calls else job.text(),
            reasoning_content=job.reasoning() or UNSET,
            tool_calls=calls or UNSET,
        )
        choices.append(
            ChatChoice(
                index=index,
                message=message,
                logprobs=ChatLogprobs(entries) if asked else None,
                finish_reason=finish_reason(end, bool(calls)),
                rbee=exchange.rbee(index),
            )
        )
    return ChatCompletion(
        id=exchange.id,
        created=exchange.created,
        model=exchange.model,
        system_fingerprint=exchange.fingerprint,
        choices=choices,
        usage=exchange.usage(1),
    )
