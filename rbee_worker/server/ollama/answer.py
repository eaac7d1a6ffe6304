"""The events of a job as Ollama's lines: pieces of the answer, and a last line with figures."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET

from rbee_worker.answer_parts import CallPiece, joined_calls
from rbee_worker.errors import one_line
from rbee_worker.server.jobs import Job
from rbee_worker.server.ollama.schemas import (
    AnsweredCall,
    AnsweredFunction,
    AnsweredMessage,
    ChatLine,
    GenerateLine,
)
from rbee_worker.server.openai.chat import scores
from rbee_worker.server.openai.schemas import ChatLogprob
from rbee_worker.server.openai.shared import FINISH, Pieces, rbee_of
from rbee_worker.types import End, Error, Event, Token

CUT = "the arguments of the last tool call were cut: they are empty"


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


class Lines:
    """One answer, line by line. chat: as messages; else as `response`."""

    def __init__(self, job: Job, model: str, pieces: Pieces, *, chat: bool) -> None:
        self._job = job
        self._model = model
        self._pieces = pieces
        self._chat = chat
        self._calls: list[CallPiece] = []  # of the call that is not complete yet
        self._encode = msgspec.json.Encoder().encode

    def event(self, choice: int, place: int, event: Event) -> bytes:
        """The lines of one event of the job."""
        if isinstance(event, Token):
            made = self._token(event)
            return b"" if made is None else self._encode(made) + b"\n"
        if isinstance(event, End):
            return b"".join(self._encode(line) + b"\n" for line in self._end(event))
        if isinstance(event, Error):
            return self._encode({"error": one_line(event.message)}) + b"\n"
        return b""

    def done(self) -> bytes:
        """Nothing follows the last line."""
        return b""

    def whole(self) -> ChatLine | GenerateLine:
        """The form that is not streamed: the last line with all of the answer."""
        job = self._job
        assert job.end is not None
        events = [e for e in job.log.events if isinstance(e, Token | End)]
        found = [scores(self._pieces, e.ids, e.logprobs) for e in events]
        rows = [row for s in found if s is not None for row in s.content]
        asked = any(s is not None for s in found)
        calls, cut = _answered(job.calls())
        line = self._line(job.text(), job.reasoning(), calls, rows if asked else None)
        return self._finished(line, job.end, cut)

    def _token(self, event: Token) -> ChatLine | GenerateLine | None:
        calls, _ = _answered(joined_calls(self._complete(event.calls)))
        found = scores(self._pieces, event.ids, event.logprobs)
        rows = None if found is None else found.content
        if not (event.t or event.reasoning or calls or rows):
            return None
        return self._line(event.t, event.reasoning, calls, rows)

    def _complete(self, pieces: tuple[CallPiece, ...], *, end: bool = False) -> list[CallPiece]:
        """The pieces of calls that are complete now that these have come."""
        self._calls += pieces
        last = self._calls[-1].index if self._calls and not end else -1
        complete = [p for p in self._calls if p.index != last]
        self._calls = [p for p in self._calls if p.index == last]
        return complete

    def _end(self, end: End) -> list[ChatLine | GenerateLine]:
        """The rest of the answer, if there is any, and the last line."""
        calls, cut = _answered(joined_calls(self._complete(end.calls, end=True)))
        found = scores(self._pieces, end.ids, end.logprobs)
        rows = None if found is None else found.content
        lines = []
        if end.text or end.reasoning or calls or rows:
            lines.append(self._line(end.text, end.reasoning, calls, rows))
        return [*lines, self._finished(self._line("", "", [], None), end, cut)]

    def _line(
        self,
        text: str,
        reasoning: str,
        calls: list[AnsweredCall],
        rows: list[ChatLogprob] | None,
    ) -> ChatLine | GenerateLine:
        common: dict[str, Any] = {
            "model": self._model,
            "created_at": now(),
            "done": False,
            "logprobs": UNSET if rows is None else rows,
        }
        thinking = reasoning or UNSET
        if not self._chat:
            return GenerateLine(response=text, thinking=thinking, **common)
        message = AnsweredMessage(content=text, thinking=thinking, tool_calls=calls or UNSET)
        return ChatLine(message=message, **common)

    def _finished(
        self, line: ChatLine | GenerateLine, end: End, cut: bool
    ) -> ChatLine | GenerateLine:
        usage = end.usage
        line.done = True
        line.done_reason = FINISH.get(end.stop.rule, "stop")
        line.total_duration = int((time.monotonic() - self._job.born) * 1e9)
        line.load_duration = 0
        line.prompt_eval_count = usage.prompt_tokens
        line.prompt_eval_duration = int(usage.prefill_ms * 1e6)
        line.eval_count = usage.output_tokens
        line.eval_duration = int(usage.decode_ms * 1e6)
        line.rbee = rbee_of(self._job, *([CUT] if cut else []))
        return line


def _answered(calls: tuple[CallPiece, ...]) -> tuple[list[AnsweredCall], bool]:
    """Whole calls with their arguments as objects, and whether some were cut."""
    found, cut = [], False
    for call in calls:
        try:
            arguments = json.loads(call.arguments)
        except ValueError:
            arguments = None
        if not isinstance(arguments, dict):
            arguments, cut = {}, True
        function = AnsweredFunction(index=call.index, name=call.name, arguments=arguments)
        found.append(AnsweredCall(id=call.id, function=function))
    return found, cut
