"""`LiveRequest`, one request on the text side: ids become characters, characters become events.

Ids wait until a character is complete; characters wait while they could become a stop string. What
comes out is append-only. The consumer may be slow: token events it has not taken are one event that
grows, so a request never holds more than its own answer.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections import deque
from datetime import UTC, datetime

import msgspec

from rbee_worker.engine.messages import (
    Finished,
    Preempted,
    PromptScores,
    Rescaled,
    Scheduled,
    Submit,
    Tokens,
)
from rbee_worker.observe import narration
from rbee_worker.session.prepare import Prepared
from rbee_worker.session.stop_strings import StopMatcher
from rbee_worker.session.text import TextSide
from rbee_worker.types import (
    End,
    Error,
    Event,
    Metrics,
    ModelInfo,
    Narration,
    PromptLogprobs,
    Request,
    Started,
    StopRecord,
    Token,
    TokenLogprob,
    Usage,
)

METRICS_EVERY_S = 1.0
MOST_EVENTS = 64  # a consumer further behind gets no more narrations and metrics


class LiveRequest:
    """`seq` names it in the engine. `output_ids` are all ids drawn and kept so far."""

    def __init__(self, request: Request, seq: str, prepared: Prepared, text: TextSide) -> None:
        params = prepared.resolved.params
        self.request = request
        self.seq = seq
        self.prepared = prepared
        self.output_ids: list[int] = []
        self.scheduled = False
        self.ended = False  # the engine has nothing more to say of it
        self._text = text
        self._stream = text.stream(params.skip_special_tokens)
        self._matcher = StopMatcher(params.stop, armed=False) if params.stop else None
        self._mute = set(params.stop_token_ids)  # end the answer, and are no part of its text
        if params.skip_special_tokens and not params.ignore_eos:
            self._mute.update(e.id for e in text.eos)
        # special tokens without text: a stop string may be made of them all the same
        self._hidden = text.tokenizer.special_ids if params.skip_special_tokens else frozenset()
        self._matched_at: int | None = None
        self._wants_logprobs = params.logprobs is not None
        # ids whose text has not come out yet, then the token event that is being gathered
        self._ids: list[int] = []
        self._logprobs: list[TokenLogprob] = []
        self._open_text: list[str] = []
        self._open_ids: list[int] = []
        self._open_logprobs: list[TokenLogprob] = []
        self._starts: list[int] = []  # of each waiting id: characters before its own
        self._pushed = self._shown = 0  # characters; counted only where there are stop strings
        self._sent = 0  # ids that have left in events
        self._events: deque[Event] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._drafted = self._accepted = 0  # of `output_ids`
        self._first_s = 0.0
        self.metrics_due = 0.0

    def submit(self) -> Submit:
        """The message that starts it, or goes on with it in another engine."""
        resolved = self.prepared.resolved
        params = resolved.params
        return Submit(
            seq=self.seq,
            prompt_ids=self.prepared.prompt_ids,
            params=params,
            output_ids=tuple(self.output_ids),
            choice=self.request.choice,
            eos=self._text.eos,
            exempt_ids=resolved.exempt_ids,
            prompt_logprobs=params.echo and params.logprobs is not None,
        )

    def started(self, model: ModelInfo) -> Started:
        """The first event. The time is the wall clock's, in UTC."""
        resolved = self.prepared.resolved
        return Started(
            job_id=self.request.id,
            model=model.model,
            started_at=datetime.now(UTC).isoformat(),
            prompt_tokens=len(self.prepared.prompt_ids),
            seed=resolved.params.seed,
            sampling=resolved,
            warnings=model.notes + self.prepared.warnings,
            prompt_ids=self.prepared.prompt_ids,
        )

    # ---- from the engine

    def tokens(self, m: Tokens) -> bool:
        """New ids. True: a stop string is complete, the engine may stop drawing."""
        if self._matched_at is not None:
            return False  # drawn before the engine heard of the match
        self._drafted, self._accepted = m.drafted, m.accepted
        for i, token_id in enumerate(m.ids):
            self.output_ids.append(token_id)
            if m.logprobs is not None:
                self._logprobs.append(m.logprobs[i])
            self._push(token_id)
            if self._matched_at is not None:
                return True
        return False

    def news(self, m: PromptScores | Scheduled | Preempted | Rescaled) -> None:
        """What happens to it besides tokens."""
        if isinstance(m, PromptScores):
            self._add(PromptLogprobs(logprobs=m.logprobs))
        elif isinstance(m, Preempted):
            self._narrate(narration.preempted(self.request.id, m.tokens))
        elif isinstance(m, Rescaled):
            self._narrate(narration.rescaled(self.request.id, m.tokens, m.past))
        else:
            self.scheduled = True
            self._narrate(
                narration.prompt_scheduled(self.request.id, m.tokens, m.cached, m.waited_ms)
            )

    def finished(self, m: Finished) -> None:
        """The engine has ended it: flush what is held and close with `End` or `Error`."""
        self.ended = True
        if m.stop.rule == "ERROR" and self._matched_at is None:
            message = m.error or "the engine failed on this request."
            oom = m.code == "VRAM_OOM"
            self._add(Error(code="VRAM_OOM" if oom else "INFERENCE_FAILED", message=message))
            return
        tail = ""
        if self._matched_at is None:
            tail = self._filter(self._stream.flush())
        if self._matcher is not None and self._matched_at is None:
            tail += self._matcher.flush()
        usage = msgspec.structs.replace(
            m.usage,
            output_tokens=len(self.output_ids),
            drafted_tokens=self._drafted,
            accepted_tokens=self._accepted,
        )
        if self._drafted:
            self._narrate(narration.drafted(self.request.id, self._drafted, self._accepted))
        self._add(
            End(
                stop=self._record(m.stop),
                usage=usage,
                ids=tuple(self._ids),
                text=tail,
                logprobs=tuple(self._logprobs) if self._wants_logprobs else None,
            )
        )

    def abandoned(self, rule: str) -> None:
        """It was ended before the engine heard of it."""
        usage = Usage(prompt_tokens=len(self.prepared.prompt_ids), cached_tokens=0, output_tokens=0)
        record = StopRecord(rule="TIMEOUT" if rule == "TIMEOUT" else "CANCELLED", at=0)
        self.finished(Finished(seq=self.seq, stop=record, usage=usage))

    def lost(self, message: str) -> None:
        """The engine is gone."""
        self.ended = True
        self._add(Error(code="ENGINE_LOST", message=message))

    def metrics(self, now: float, vram_bytes: int, kv_usage: float) -> None:
        """Figures, called when they are due: with the first token (no event) and every second."""
        self.metrics_due = now + METRICS_EVERY_S
        if not self._first_s:
            self._first_s = now
        elif len(self._events) < MOST_EVENTS:
            rate = (len(self.output_ids) - 1) / (now - self._first_s)
            self._add(Metrics(tokens_per_sec=rate, vram_bytes=vram_bytes, kv_usage=kv_usage))

    def _narrate(self, told: Narration) -> None:
        if len(self._events) < MOST_EVENTS:
            self._add(told)

    # ---- to the consumer

    async def next(self) -> Event:
        """The next event, in order."""
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
        """The next event that is already there."""
        if self._events:
            return self._events.popleft()
        return self._seal()

    def _seal(self) -> Token | None:
        """The token event gathered so far; a new one begins."""
        if not self._open_ids:
            return None
        event = Token(
            t="".join(self._open_text),
            i=self._sent,
            ids=tuple(self._open_ids),
            logprobs=tuple(self._open_logprobs) if self._wants_logprobs else None,
        )
        self._sent += len(self._open_ids)
        self._open_text, self._open_ids, self._open_logprobs = [], [], []
        return event

    def _add(self, event: Event) -> None:
        token = self._seal()
        if token is not None:
            self._events.append(token)
        self._events.append(event)
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    # ---- text

    def _push(self, token_id: int) -> None:
        """One id more. It leaves with the first event that shows a character at or after its own
        first; an id without a character waits for the next that is shown."""
        text = "" if token_id in self._mute else self._stream.push(token_id)
        self._ids.append(token_id)
        leaving = len(self._ids) if text else 0
        if self._matcher is not None:
            self._starts.append(self._pushed)
            self._pushed += len(text)
            text = self._filter(text)
            if token_id in self._hidden and token_id not in self._mute:
                text += self._filter(self._text.tokenizer.token_text(token_id), hidden=True)
            leaving = bisect_left(self._starts, self._shown)
            del self._starts[:leaving]
        if not text:
            return
        self._open_text.append(text)
        self._open_ids += self._ids[:leaving]
        self._open_logprobs += self._logprobs[:leaving]
        del self._ids[:leaving], self._logprobs[:leaving]
        self._wake()

    def _filter(self, text: str, *, hidden: bool = False) -> str:
        """What may be shown now that `text` has come; hidden: of itself never."""
        matcher = self._matcher
        if matcher is None:
            return text
        matcher.armed = len(self.output_ids) > self.prepared.resolved.params.min_tokens
        text = matcher.push(text, hidden=hidden)
        if matcher.found is not None:
            self._matched_at = len(self.output_ids)
        self._shown += len(text)
        return text

    def _record(self, stop: StopRecord) -> StopRecord:
        """The engine's record with what only the text side knows."""
        if self._matched_at is not None:
            assert self._matcher is not None
            return StopRecord(
                rule="STOP_SEQUENCE",
                at=self._matched_at,
                sequence=self._matcher.found,
                origin="request",
            )
        if stop.token_id is not None:
            text = self._text.tokenizer.token_text(stop.token_id)
            return msgspec.structs.replace(stop, token_text=text)
        if stop.rule == "MAX_TOKENS":
            origin = self.prepared.resolved.origins.get("max_tokens")
            return msgspec.structs.replace(stop, origin=origin)
        return stop
