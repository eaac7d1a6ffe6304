"""A response as OpenAI has it, whole or as a stream of events."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET

from rbee_worker.server.openai.shared import FINISH, rbee_of
from rbee_worker.server.responses.kept import Kept
from rbee_worker.server.responses.output import Output
from rbee_worker.server.responses.schemas import (
    IncompleteDetails,
    InputDetails,
    OutputDetails,
    OutputItem,
    ResponseAnswer,
    ResponseError,
    Status,
    Usage,
)
from rbee_worker.types import End, Error, Event, Started


def status_of(kept: Kept) -> Status:
    """OpenAI's word for what became of a response so far."""
    job = kept.job
    if job.error is not None:
        return "failed"
    if job.end is None:
        return "in_progress" if job.last_token is not None or job.live else "queued"
    if job.end.stop.rule == "CANCELLED":
        return "cancelled"
    return "completed" if FINISH.get(job.end.stop.rule, "stop") == "stop" else "incomplete"


def answer_of(kept: Kept, items: list[OutputItem], status: Status | None = None) -> ResponseAnswer:
    """The response with these items. status: if it is not the job's own."""
    given, job = kept.given, kept.job
    state = status or status_of(kept)
    started, end = job.started, job.end if status is None else None
    assert started is not None
    sampling = started.sampling.params
    text = {} if given.text is None or given.text.format is None else given.text.format
    effort = None if given.reasoning is None else given.reasoning.effort
    choice: Any = given.tool_choice or "auto"
    return ResponseAnswer(
        id=kept.id,
        created_at=kept.created,
        completed_at=int(job.finished or 0) or None if state == "completed" else None,
        status=state,
        background=given.background,
        error=None if job.error is None else ResponseError(job.error.message),
        incomplete_details=IncompleteDetails() if state == "incomplete" else None,
        instructions=given.instructions,
        max_output_tokens=given.max_output_tokens,
        metadata=given.metadata or {},
        model=kept.model,
        output=items,
        parallel_tool_calls=given.parallel_tool_calls is not False,
        previous_response_id=given.previous_response_id,
        reasoning={"effort": effort, "summary": None},
        store=given.store,
        temperature=sampling.temperature,
        text={"format": text or {"type": "text"}},
        tool_choice=choice,
        tools=[{"parameters": None, "strict": None, **tool} for tool in kept.tools],
        top_logprobs=given.top_logprobs or 0,
        top_p=sampling.top_p,
        usage=None if end is None else _usage(end),
        rbee=UNSET if end is None else rbee_of(job),
    )


def _usage(end: End) -> Usage:
    usage = end.usage
    return Usage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputDetails(usage.cached_tokens),
        output_tokens=usage.output_tokens,
        output_tokens_details=OutputDetails(usage.reasoning_tokens),
        total_tokens=usage.prompt_tokens + usage.output_tokens,
    )


class ResponseRendering:
    """One answer as OpenAI's events, numbered: created, in_progress, items with their parts, and at
    last completed, incomplete or failed."""

    def __init__(self, kept: Kept) -> None:
        self._kept = kept
        self._output = Output(kept.id, kept.pieces, sealed=kept.sealed)
        self._number = -1
        self._encode = msgspec.json.Encoder().encode

    def event(self, choice: int, place: int, event: Event) -> bytes:
        """Frames for one event of the job."""
        if isinstance(event, Started):
            begun = answer_of(self._kept, [], "in_progress")
            return self._frame("response.created", response=begun) + self._frame(
                "response.in_progress", response=begun
            )
        if isinstance(event, Error):
            return self._last("failed")
        frames = [self._frame(kind, **data) for kind, data in self._output.feed(event)]
        if isinstance(event, End):
            state = status_of(self._kept)
            frames.append(self._last("incomplete" if state == "cancelled" else state))
        return b"".join(frames)

    def done(self) -> bytes:
        """Nothing follows the last event."""
        return b""

    def _last(self, state: str) -> bytes:
        whole = answer_of(self._kept, self._output.items)
        return self._frame(f"response.{state}", response=whole)

    def _frame(self, kind: str, **data: Any) -> bytes:
        self._number += 1
        body = self._encode({"type": kind, "sequence_number": self._number, **data})
        return b"event: %b\ndata: %b\n\n" % (kind.encode(), body)
