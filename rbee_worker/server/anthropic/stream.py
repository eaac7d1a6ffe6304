"""The events of a job as Anthropic's stream: blocks of content, one after another."""

from __future__ import annotations

import json
from typing import Any

from msgspec import structs

from rbee_worker.answer_parts import CallPiece
from rbee_worker.server.anthropic.schemas import Told
from rbee_worker.server.jobs import Job
from rbee_worker.types import End, Error, Event, Started, Token

_REASONS = {
    "EOS": "end_turn",
    "COMPLETE": "end_turn",
    "CANCELLED": "end_turn",
    "MAX_TOKENS": "max_tokens",
    "TIMEOUT": "max_tokens",
    "CONTEXT_FULL": "model_context_window_exceeded",
}


def stop_reason(end: End, called: bool) -> str:
    """Anthropic's word for the end of an answer. called: it has tool calls."""
    if end.stop.rule == "STOP_SEQUENCE":
        if end.stop.sequence is not None:
            return "stop_sequence"
        return "tool_use" if called else "end_turn"
    reason = _REASONS.get(end.stop.rule, "end_turn")
    return "tool_use" if called and reason == "end_turn" else reason


def told(job: Job, end: End) -> Told:
    """What the worker itself tells of a finished answer."""
    assert job.started is not None
    return Told(
        **structs.asdict(end.stop),
        seed=job.started.seed,
        drafted_tokens=end.usage.drafted_tokens,
        accepted_tokens=end.usage.accepted_tokens,
        warnings=job.started.warnings,
    )


class MessageRendering:
    """One answer as Anthropic's events: message_start, blocks with their deltas, message_delta,
    message_stop."""

    def __init__(self, job: Job, model: str) -> None:
        self._job = job
        self._model = model
        self._index = -1  # of the block that is open
        self._open: str | int | None = None  # its kind, or the number of its call
        self._called = False

    def event(self, choice: int, place: int, event: Event) -> bytes:
        """Frames for one event of the job."""
        if isinstance(event, Started):
            return _frame("message_start", message=self._message(event))
        if isinstance(event, Token):
            return b"".join(self._parts(event, event.t))
        if isinstance(event, End):
            return b"".join([*self._parts(event, event.text), self._closed(), *self._end(event)])
        if isinstance(event, Error):
            return _frame("error", error={"type": "api_error", "message": event.message})
        return b""

    def done(self) -> bytes:
        """Nothing follows message_stop."""
        return b""

    def _message(self, started: Started) -> dict[str, Any]:
        usage = {"input_tokens": started.prompt_tokens, "output_tokens": 0}
        return {
            "id": self._job.id,
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": usage,
        }

    def _parts(self, event: Token | End, text: str) -> list[bytes]:
        frames = []
        if event.reasoning:
            frames.append(self._block("thinking", {"thinking": "", "signature": ""}))
            frames.append(self._delta("thinking_delta", thinking=event.reasoning))
        if text:
            frames.append(self._block("text", {"text": ""}))
            frames.append(self._delta("text_delta", text=text))
        for call in event.calls:
            frames += self._call(call)
        return frames

    def _call(self, call: CallPiece) -> list[bytes]:
        self._called = True
        frames = []
        if self._open != call.index:
            head = {"type": "tool_use", "id": call.id, "name": call.name, "input": {}}
            frames.append(self._begin(call.index, head))
        if call.arguments:
            frames.append(self._delta("input_json_delta", partial_json=call.arguments))
        return frames

    def _block(self, kind: str, empty: dict[str, Any]) -> bytes:
        """Open a block of this kind, unless it is open."""
        return b"" if self._open == kind else self._begin(kind, {"type": kind, **empty})

    def _begin(self, kind: str | int, head: dict[str, Any]) -> bytes:
        closed = self._closed()
        self._index += 1
        self._open = kind
        return closed + _frame("content_block_start", index=self._index, content_block=head)

    def _closed(self) -> bytes:
        if self._open is None:
            return b""
        self._open = None
        return _frame("content_block_stop", index=self._index)

    def _delta(self, kind: str, **delta: str) -> bytes:
        return _frame("content_block_delta", index=self._index, delta={"type": kind, **delta})

    def _end(self, end: End) -> list[bytes]:
        usage = {
            "input_tokens": end.usage.prompt_tokens - end.usage.cached_tokens,
            "output_tokens": end.usage.output_tokens,
            "cache_read_input_tokens": end.usage.cached_tokens,
            "cache_creation_input_tokens": 0,
        }
        reason = stop_reason(end, self._called)
        delta = {"stop_reason": reason, "stop_sequence": end.stop.sequence}
        rbee = structs.asdict(told(self._job, end))
        return [
            _frame("message_delta", delta=delta, usage=usage, rbee=rbee),
            _frame("message_stop"),
        ]


def _frame(kind: str, **data: Any) -> bytes:
    """One event, with its name in its line and in its data."""
    text = json.dumps({"type": kind, **data}, ensure_ascii=False)
    return f"event: {kind}\ndata: {text}\n\n".encode()
