"""The events of a request as one answer, as pieces of text, or as a vector."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rbee_worker.answer_parts import CallPiece, joined_calls
from rbee_worker.errors import InferenceFailed, OutOfMemory
from rbee_worker.sequence_end import StopRecord, Usage
from rbee_worker.types import End, Error, Event, Started, Token, TokenLogprob, Vector


@dataclass(frozen=True)
class Answer:
    """A finished answer; `str(answer)` is its text.

    token_ids: all ids drawn. stop: why it ended. usage: tokens and times. logprobs: one per token,
    if `logprobs` was requested. warnings: problems that the model's files lead to. reasoning,
    tool_calls: of a conversation's answer, apart from its text.
    """

    text: str
    token_ids: tuple[int, ...]
    stop: StopRecord
    usage: Usage
    seed: int
    logprobs: tuple[TokenLogprob, ...] | None = None
    warnings: tuple[str, ...] = ()
    reasoning: str = ""
    tool_calls: tuple[CallPiece, ...] = ()

    def __str__(self) -> str:
        return self.text


def gathered(events: Iterator[Event]) -> Answer:
    """The answer that these events make up. Raises the error that ended it, if any."""
    parts: list[str] = []
    ids: list[int] = []
    logprobs: list[TokenLogprob] = []
    reasoning: list[str] = []
    calls: list[CallPiece] = []
    started: Started | None = None
    for event in events:
        _raise(event)
        if isinstance(event, Started):
            started = event
        elif isinstance(event, Token | End):
            parts.append(event.t if isinstance(event, Token) else event.text)
            ids += event.ids
            reasoning.append(event.reasoning)
            calls += event.calls
            logprobs += event.logprobs or ()
        if isinstance(event, End):
            assert started is not None
            wanted = started.sampling.params.logprobs is not None
            return Answer(
                "".join(parts),
                tuple(ids),
                event.stop,
                event.usage,
                started.seed,
                tuple(logprobs) if wanted else None,
                started.warnings,
                "".join(reasoning),
                joined_calls(calls),
            )
    raise InferenceFailed("the engine did not end this request.")


def vector(events: Iterator[Event]) -> NDArray[np.float32]:
    """The vector among these events. Raises the error that ended them, if any."""
    found: NDArray[np.float32] | None = None
    for event in events:
        _raise(event)
        if isinstance(event, Vector):
            found = np.frombuffer(event.data, "<f4").astype(np.float32)
    if found is None:
        raise InferenceFailed("the engine gave no vector.")
    return found


def texts(events: Iterator[Event]) -> Iterator[str]:
    """The answer's text, piece by piece. Raises as `gathered`."""
    for event in events:
        text = event.t if isinstance(event, Token) else _end_text(event)
        if text:
            yield text


def _end_text(event: Event) -> str:
    _raise(event)
    return event.text if isinstance(event, End) else ""


def _raise(event: Event) -> None:
    if isinstance(event, Error):
        kind = OutOfMemory if event.code == "VRAM_OOM" else InferenceFailed
        raise kind(event.message)
