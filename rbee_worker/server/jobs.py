"""A job: a request, the log of its events, and what became of it.

A job's log is the only buffer: the engine's events are appended without waiting, and every stream
reads the log at its own pace from its own position. So a slow reader delays nobody, and a broken
stream resumes by reading on. No HTTP here, and no rendering of events.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from rbee_worker.answer_parts import CallPiece, joined_calls
from rbee_worker.server.limits import Call
from rbee_worker.types import (
    End,
    Error,
    Event,
    PromptLogprobs,
    Request,
    Started,
    Token,
    TokenLogprob,
)

State = Literal["queued", "running", "done", "cancelled", "timeout", "failed"]


HEAVY = 64  # size of an event, in tokens, from which rendering it takes long
EVENT_BYTES, _ID_BYTES = 300, 36  # of an event of one token, and of an id in a list


def weight(event: Event) -> int:
    """The approximate size of an event in tokens, including log-probabilities."""
    if isinstance(event, PromptLogprobs):
        width = len(event.logprobs[-1].top) if event.logprobs and event.logprobs[-1] else 0
        return len(event.logprobs) * (2 + width)
    if isinstance(event, Token | End):
        width = 2 + len(event.logprobs[0].top) if event.logprobs else 1
        return len(event.ids) * width
    return 1


def held(event: Event) -> int:
    """The size of an event in memory, in tokens as `weight` counts them: also of the prompt and the
    constraint that a first event has."""
    if not isinstance(event, Started):
        return weight(event)
    constraint = event.sampling.params.constraint
    text = 0 if constraint is None else len(constraint.text)
    return 1 + (len(event.prompt_ids) * _ID_BYTES + text) // EVENT_BYTES


class JobLog:
    """An append-only list of events, and the readers that wait for more.

    The event at position `k` has the SSE id `k + 1`. heavy: it has events that are large by
    themselves (a prompt's log-probabilities, many tokens at once), so a thread should render them.
    left: this process adds nothing more, another one will.
    """

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.closed = False
        self.left = False
        self.heavy = False
        self._wakes: set[asyncio.Event] = set()

    def append(self, event: Event) -> None:
        assert not self.closed
        self.events.append(event)
        if not (type(event) is Token and len(event.ids) == 1) and weight(event) > HEAVY:
            self.heavy = True
        for wake in self._wakes:
            wake.set()

    def close(self) -> None:
        """No event will follow."""
        self.closed = True
        for wake in self._wakes:
            wake.set()

    def leave(self) -> None:
        """The rest is for another process: streams break off, and can be resumed there."""
        self.left = True
        for wake in self._wakes:
            wake.set()

    def subscribe(self, wake: asyncio.Event) -> None:
        """Set `wake` at every append and at the close, until `unsubscribe`."""
        self._wakes.add(wake)

    def unsubscribe(self, wake: asyncio.Event) -> None:
        self._wakes.discard(wake)


class Asked(NamedTuple):
    """The Idempotency-Key that a job was asked for with, after its owner's name and a space, and a
    digest of its request's body."""

    key: str
    digest: bytes


@dataclass(eq=False)
class Job:
    """One request and all of its events."""

    request: Request
    created: float = field(default_factory=time.time)  # Unix seconds
    born: float = field(default_factory=time.monotonic)
    log: JobLog = field(default_factory=JobLog)
    correlation_id: str = ""
    owner: str = ""  # whose token it was asked for with
    call: Call | None = None  # what it counts for
    asked: Asked | None = None
    durable: bool = False  # the journal keeps it, and gives each event to `log` once it is written
    unwanted: bool = False  # somebody has cancelled it
    trace: bool = False
    prepared_ms: float = 0.0  # from its arrival to its first event
    send_ms: float = 0.0  # time spent so far on writing its events to streams
    sent_events: int = 0
    finished: float | None = None  # Unix seconds
    ended_s: float = 0.0  # monotonic: a clock that jumps must not end a job's time
    weight: int = 0  # of all events, once it has finished
    last_token: float | None = None  # monotonic seconds
    drawn: int = 0  # output tokens in the log so far
    pump: asyncio.Task[None] | None = None

    @property
    def id(self) -> str:
        return self.request.id

    @property
    def live(self) -> bool:
        return not self.log.closed

    @property
    def started(self) -> Started | None:
        first = self.log.events[0] if self.log.events else None
        return first if isinstance(first, Started) else None

    @property
    def end(self) -> End | None:
        last = self.log.events[-1] if self.log.events else None
        return last if isinstance(last, End) else None

    @property
    def error(self) -> Error | None:
        last = self.log.events[-1] if self.log.events else None
        return last if isinstance(last, Error) else None

    @property
    def state(self) -> State:
        if self.live:
            return "running" if self.last_token is not None else "queued"
        if self.error is not None:
            return "failed"
        if self.end is None:
            return "done"
        by_rule: dict[str, State] = {"CANCELLED": "cancelled", "TIMEOUT": "timeout"}
        return by_rule.get(self.end.stop.rule, "done")

    @property
    def tokens_out(self) -> int:
        """Output tokens so far."""
        if self.end is not None:
            return self.end.usage.output_tokens
        return self.drawn

    @property
    def named(self) -> bool:
        """Whether its events have log-probabilities, which are shown with the tokens' text."""
        return self.started is not None and self.started.sampling.params.logprobs is not None

    async def ended(self) -> None:
        """Wait until nothing follows."""
        if self.pump is not None:
            await asyncio.wait({self.pump})

    def text(self) -> str:
        """The answer so far; complete once the job has ended."""
        parts = [e.t for e in self.log.events if isinstance(e, Token)]
        if self.end is not None:
            parts.append(self.end.text)
        return "".join(parts)

    def reasoning(self) -> str:
        """The reasoning so far."""
        return "".join(e.reasoning for e in self.log.events if isinstance(e, Token | End))

    def calls(self) -> tuple[CallPiece, ...]:
        """The tool calls so far."""
        events = [e for e in self.log.events if isinstance(e, Token | End)]
        return joined_calls(piece for event in events for piece in event.calls)

    def token_ids(self) -> list[int]:
        """The ids of `text`; with echo they begin with the prompt's."""
        ids = [i for e in self.log.events if isinstance(e, Token) for i in e.ids]
        return ids + list(self.end.ids) if self.end is not None else ids

    def logprobs(self) -> list[TokenLogprob] | None:
        """Of the output tokens so far; None if they were not requested."""
        if not self.named:
            return None
        parts = [e.logprobs for e in self.log.events if isinstance(e, Token | End)]
        return [entry for part in parts if part is not None for entry in part]

    def prompt_logprobs(self) -> list[TokenLogprob | None] | None:
        """Of the prompt's tokens so far; None if they were not requested or none is known yet."""
        found: list[TokenLogprob | None] = []
        for event in self.log.events:
            if isinstance(event, PromptLogprobs):
                found += event.logprobs
            elif isinstance(event, Token) and event.i >= 0:
                break  # the prompt is computed before anything is drawn
        return found or None

    @property
    def size(self) -> int:
        """The approximate size of an answer with all of it, in tokens."""
        started = self.started
        if started is None:
            return 0
        params = started.sampling.params
        each = 1 if params.logprobs is None else 2 + params.logprobs
        return each * (self.tokens_out + (started.prompt_tokens if params.echo else 0))
