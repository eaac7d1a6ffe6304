"""`EventQueue`: the events of one request between the engine's pace and its reader's.

The reader may be slow: the token events it has not taken are one event that grows, so a queue never
holds more than the request's own answer.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from rbee_worker.answer_parts import CallPiece, Part, merged_calls
from rbee_worker.session.given import Given
from rbee_worker.types import Event, Token, TokenLogprob

MOST_EVENTS = 64  # a reader that is further behind gets no more narrations and metrics


class EventQueue:
    """Events in order. One task reads."""

    def __init__(self, *, logprobs: bool, given: Given | None = None) -> None:
        """logprobs: token events carry them. given: what readers have already; it is dropped."""
        self._wants_logprobs = logprobs
        self._given = given
        self._events: deque[Event] = deque()
        # the token event that is being collected
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[CallPiece] = []
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._sent = 0 if given is None else len(given.ids)  # ids in events that are complete
        self._waiter: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        return len(self._events)

    def push(
        self, parts: Sequence[Part], ids: Sequence[int], logprobs: Sequence[TokenLogprob]
    ) -> None:
        """Add to the token event, or to the next one where an event's order would not be theirs."""
        if self._given is not None:
            parts, ids, logprobs = self._given.rest(parts, ids, logprobs)
        for part in parts:
            kind = "call" if isinstance(part, CallPiece) else part[0]
            if self._begins_another(kind):
                token = self._seal()
                if token is not None:
                    self._events.append(token)
            if isinstance(part, CallPiece):
                self._calls.append(part)
            else:
                (self._reasoning if kind == "reasoning" else self._text).append(part[1])
        self._ids += ids
        self._logprobs += logprobs
        self._wake()

    def _begins_another(self, kind: str) -> bool:
        """Whether a part cannot join the event that is being collected: its order would not be
        theirs, or nobody could tell whose tokens the log-probabilities are."""
        if kind == "reasoning":
            return bool(self._text or self._calls)
        if kind == "text":
            return bool(self._calls or (self._wants_logprobs and self._reasoning))
        return self._wants_logprobs and bool(self._text or self._reasoning)

    def add(self, event: Event) -> None:
        """Add an event after the tokens so far."""
        token = self._seal()
        if token is not None:
            self._events.append(token)
        self._events.append(event)
        self._wake()

    def add_if_read(self, event: Event) -> None:
        """Add an event that a reader who is far behind can do without."""
        if len(self._events) < MOST_EVENTS:
            self.add(event)

    async def next(self) -> Event:
        """Wait for the next event, in order."""
        while True:
            event = self.take()
            if event is not None:
                return event
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None

    def take(self) -> Event | None:
        """The next event if there is one already."""
        if self._events:
            return self._events.popleft()
        return self._seal()

    def _seal(self) -> Token | None:
        """The token event collected so far; a new one begins."""
        if not (self._ids or self._text or self._reasoning or self._calls):
            return None
        event = Token(
            t="".join(self._text),
            i=self._sent,
            ids=tuple(self._ids),
            logprobs=tuple(self._logprobs) if self._wants_logprobs else None,
            reasoning="".join(self._reasoning),
            calls=merged_calls(self._calls),
        )
        self._sent += len(self._ids)
        self._text, self._reasoning, self._calls = [], [], []
        self._ids, self._logprobs = [], []
        return event

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
