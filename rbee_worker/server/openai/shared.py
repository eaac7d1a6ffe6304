"""What completions and chat share: finish reasons, usage, token texts, both forms of the answer."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import msgspec
from starlette.requests import Request as HttpRequest
from starlette.types import ASGIApp

from rbee_worker.errors import one_line
from rbee_worker.server.encoding import LONG, answered, encoded
from rbee_worker.server.jobs import Job, weight
from rbee_worker.server.openai.schemas import (
    CompletionDetails,
    PromptDetails,
    Rbee,
    StreamOptions,
    TokenUsage,
)
from rbee_worker.server.problems import ErrorBody, Problem
from rbee_worker.server.requests import ignored, settled
from rbee_worker.server.sse import DONE, EventStream, frame
from rbee_worker.server.worker import Worker
from rbee_worker.session.startup import computed
from rbee_worker.session.text import TextStream
from rbee_worker.types import End, Error, Event

FINISH = {  # stop rule -> OpenAI's word; the rule itself is in `rbee.stop`
    "EOS": "stop",
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "CANCELLED": "stop",
    "MAX_TOKENS": "length",
    "CONTEXT_FULL": "length",
    "TIMEOUT": "length",
}


def finish_reason(end: End, called: bool) -> str:
    """OpenAI's word for the end of an answer. called: it has tool calls."""
    reason = FINISH.get(end.stop.rule, "stop")
    return "tool_calls" if called and reason == "stop" else reason


class Pieces:
    """The form of ids in logprobs."""

    def __init__(self, worker: Worker) -> None:
        assert worker.engine is not None
        self._engine = worker.engine
        self._tokenizer = worker.engine.tokenizer

    def stream(self, *, skip_special: bool) -> TextStream:
        """What makes text of ids, one after another."""
        return self._engine.stream(skip_special=skip_special)

    def opened_by(self, ids: Sequence[int], text: str) -> int:
        """How many special tokens before a prompt's text are not in it."""
        n = 0
        while (
            n < len(ids)
            and ids[n] in self._tokenizer.special_ids
            and not text.startswith(self._tokenizer.token_text(ids[n]))
        ):
            n += 1
        return n

    def raw(self, token_id: int) -> bytes:
        """The bytes that an id stands for; for a special token, its name's."""
        return (
            self._tokenizer.token_bytes(token_id) or self._tokenizer.token_text(token_id).encode()
        )

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens with their names."""
        return self._tokenizer.decode(ids, skip_special=False)

    def name(self, token_id: int) -> str:
        """The id as text; if its bytes are not a complete character, as in OpenAI: bytes:\\xe2."""
        raw = self.raw(token_id)
        try:
            return raw.decode()
        except UnicodeDecodeError:
            return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)


def fingerprint(worker: Worker) -> str:
    """`system_fingerprint`: equal where the same request with the same seed gives the same tokens,
    as far as that depends on the program, its model and how that is computed."""
    info = worker.model
    assert info is not None
    parts = (info.model, info.arch, info.n_parameters, *computed(worker.settings, info))
    digest = hashlib.sha256(repr((worker.version, parts)).encode()).hexdigest()
    return f"b{worker.version}-{digest[:10]}"


class Exchange:
    """One OpenAI request in progress: its id, model name, and the jobs that answer it, by
    choice."""

    def __init__(self, worker: Worker, answer_id: str, model: str, jobs: Sequence[Job]) -> None:
        self.id = answer_id
        self.model = model
        self.jobs = jobs
        self.created = int(time.time())
        self.fingerprint = fingerprint(worker)
        self.pieces = Pieces(worker)

    def usage(self, prompts: int) -> TokenUsage:
        """Token counts; each of the `prompts` prompts counts once, whatever `n` is."""
        each = len(self.jobs) // prompts
        tokens = cached = out = reasoning = 0
        for index, job in enumerate(self.jobs):
            if job.end is None:
                continue
            out += job.end.usage.output_tokens
            reasoning += job.end.usage.reasoning_tokens
            if index % each == 0:
                tokens += job.end.usage.prompt_tokens
                cached += job.end.usage.cached_tokens
        return TokenUsage(
            prompt_tokens=tokens,
            completion_tokens=out,
            total_tokens=tokens + out,
            prompt_tokens_details=PromptDetails(cached),
            completion_tokens_details=CompletionDetails(reasoning),
        )

    def wants_logprobs(self, choice: int) -> bool:
        """Whether log-probabilities were requested."""
        started = self.jobs[choice].started
        return started is not None and started.sampling.params.logprobs is not None

    def rbee(self, choice: int) -> Rbee:
        """Why this choice stopped, its seed, and warnings about the model and the prompt."""
        return rbee_of(self.jobs[choice])


def rbee_of(job: Job, *more: str) -> Rbee:
    """What the worker itself tells of a finished answer. more: further warnings."""
    assert job.end is not None
    assert job.started is not None
    return Rbee(
        stop=job.end.stop,
        seed=job.started.seed,
        drafted_tokens=job.end.usage.drafted_tokens,
        accepted_tokens=job.end.usage.accepted_tokens,
        warnings=(*job.started.warnings, *more),
    )


class Chunks(Protocol):
    """A streamed form: turns one event of one choice into chunks (structs)."""

    def chunks(self, choice: int, event: Event) -> list[Any]: ...

    def usage_chunk(self, usage: TokenUsage) -> Any: ...


class ChunkRendering:
    """`Chunks` as server-sent events, with the usage at the end if requested."""

    def __init__(self, exchange: Exchange, chunks: Chunks, prompts: int, usage: bool) -> None:
        self._exchange = exchange
        self._chunks = chunks
        self._prompts = prompts
        self._usage = usage
        self._encode = msgspec.json.Encoder().encode

    def event(self, choice: int, place: int, event: Event) -> bytes:
        if type(event) is Error:
            return frame(self._encode(mid_stream(event)))
        heavy = self._exchange.jobs[choice].log.heavy and weight(event) > LONG
        encode = encoded if heavy else self._encode
        return b"".join([frame(encode(c)) for c in self._chunks.chunks(choice, event)])

    def done(self) -> bytes:
        if not self._usage:
            return DONE
        usage = self._chunks.usage_chunk(self._exchange.usage(self._prompts))
        return frame(self._encode(usage)) + DONE


def mid_stream(event: Error) -> Problem:
    """The form of an error after the answer has begun."""
    message, code = one_line(event.message), event.code.lower()
    return Problem(error=ErrorBody(message=message, type="server_error", code=code, param=None))


async def respond(
    http: HttpRequest,
    worker: Worker,
    exchange: Exchange,
    *,
    prompts: int,
    stream: bool,
    options: StreamOptions | None,
    chunks: Callable[[bool], Chunks],
    whole: Callable[[], Any],
) -> ASGIApp:
    """The response, streamed or whole. A client that leaves cancels its jobs."""
    headers = ignored(exchange.jobs)
    if not stream:
        await settled(http, worker, exchange.jobs)
        return await answered(whole, sum(job.size for job in exchange.jobs), headers)
    usage = options is not None and options.include_usage
    rendering = ChunkRendering(exchange, chunks(usage), prompts, usage)
    return EventStream(
        [job.log for job in exchange.jobs],
        rendering,
        headers=[(k.lower().encode(), v.encode()) for k, v in headers.items()],
        gone=lambda: worker.abandon(exchange.jobs),
        sent=partial(worker.sent, exchange.jobs[0]),
    )
