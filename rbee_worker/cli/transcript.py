"""One answer as a command sees it: shown while it streams, and collected for the end."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec

from rbee_worker.answer_parts import CallPiece, joined_calls
from rbee_worker.errors import InferenceFailed
from rbee_worker.model_info import ModelInfo
from rbee_worker.observe.narration import why_stopped
from rbee_worker.types import (
    End,
    Error,
    Event,
    Narration,
    PromptLogprobs,
    Started,
    Token,
    TokenLogprob,
)


@dataclass
class Transcript:
    """Everything in a stream of events. Times are in seconds since the request was sent."""

    started: Started | None = None
    end: End | None = None
    pieces: list[str] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[CallPiece] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: tuple[TokenLogprob | None, ...] | None = None
    first_token_s: float | None = None
    total_s: float = 0.0

    @property
    def text(self) -> str:
        return "".join(self.pieces)

    @property
    def reasoning(self) -> str:
        return "".join(self.thoughts)

    @property
    def tool_calls(self) -> tuple[CallPiece, ...]:
        return joined_calls(self.calls)

    @property
    def tokens_per_s(self) -> float | None:
        """Decode speed: tokens after the first, divided by their time; None for fewer than two."""
        usage = self.end.usage if self.end else None
        if usage is None or usage.output_tokens < 2 or usage.decode_ms <= 0:
            return None
        return (usage.output_tokens - 1) / usage.decode_ms * 1000

    def summary(self) -> str:
        """ "24 tokens at 31.2 tok/s, prompt of 38 tokens in 0.21 s, stopped: max_tokens"."""
        assert self.end is not None
        usage = self.end.usage
        speed = f" at {self.tokens_per_s:.1f} tok/s" if self.tokens_per_s else ""
        cached = f" ({usage.cached_tokens} cached)" if usage.cached_tokens else ""
        thought = f", {usage.reasoning_tokens} of reasoning" if usage.reasoning_tokens else ""
        drafted = f" ({usage.accepted_tokens} drafted)" if usage.drafted_tokens else ""
        return (
            f"{usage.output_tokens} tokens{thought}{drafted}{speed} · "
            f"prompt {usage.prompt_tokens} tokens{cached} in {usage.prefill_ms / 1000:.2f} s · "
            f"stopped: {why_stopped(self.end.stop)}"
        )

    def own_warnings(self, info: ModelInfo | None) -> tuple[str, ...]:
        """The warnings of this answer, without the model's own notes."""
        told = self.started.warnings if self.started else ()
        return tuple(text for text in told if info is None or text not in info.notes)

    def as_json(self) -> dict[str, Any]:
        """The object that `generate --json` prints."""
        assert self.started is not None
        assert self.end is not None
        resolved = self.started.sampling
        params = msgspec.to_builtins(resolved.params, str_keys=True)
        usage = msgspec.to_builtins(self.end.usage)
        timings = {k: round(usage.pop(k), 3) for k in ("queue_ms", "prefill_ms", "decode_ms")}
        out: dict[str, Any] = {
            "model": self.started.model,
            "text": self.text,
            "token_ids": self.ids,
            "usage": usage,
            "stop": msgspec.to_builtins(self.end.stop),
            "sampling": {
                name: {"value": value, "origin": resolved.origins.get(name, "default")}
                for name, value in params.items()
            },
            "timings": {
                **timings,
                "first_token_ms": _ms(self.first_token_s),
                "total_ms": _ms(self.total_s),
                "decode_tok_s": self.tokens_per_s and round(self.tokens_per_s, 2),
            },
            "warnings": list(self.started.warnings),
        }
        if self.thoughts:
            out["reasoning"] = self.reasoning
        if self.calls:
            out["tool_calls"] = msgspec.to_builtins(self.tool_calls)
        if resolved.params.logprobs is not None:
            out["logprobs"] = msgspec.to_builtins(self.logprobs)
        if self.prompt_logprobs is not None:
            out["prompt_logprobs"] = msgspec.to_builtins(self.prompt_logprobs)
        return out


async def gather(
    events: AsyncIterator[Event],
    *,
    on_text: Callable[[str], None],
    on_narration: Callable[[Narration], None],
    prompt_text: Callable[[Started], str],
    on_reasoning: Callable[[str], None] = lambda _: None,
) -> Transcript:
    """Follow a stream to its end. Raises InferenceFailed if it ends with an error.

    prompt_text: gives the prompt's text, which is shown first if the request asks for an echo.
    """
    transcript, began = Transcript(), time.perf_counter()
    async for event in events:
        match event:
            case Started():
                transcript.started = event
                if event.sampling.params.echo:
                    _add(transcript, prompt_text(event), event.prompt_ids, on_text)
            case Token():
                if transcript.first_token_s is None:
                    transcript.first_token_s = time.perf_counter() - began
                _think(transcript, event, on_reasoning)
                _add(transcript, event.t, event.ids, on_text)
                transcript.logprobs += event.logprobs or ()
            case PromptLogprobs():
                transcript.prompt_logprobs = (transcript.prompt_logprobs or ()) + event.logprobs
            case Narration():
                on_narration(event)
            case End():
                transcript.end = event
                _think(transcript, event, on_reasoning)
                _add(transcript, event.text, event.ids, on_text)
            case Error():
                raise InferenceFailed(f"{event.code}: {event.message}")
            case _:
                pass
    transcript.total_s = time.perf_counter() - began
    return transcript


def _add(
    transcript: Transcript, text: str, ids: tuple[int, ...], on_text: Callable[[str], None]
) -> None:
    transcript.ids += ids
    if text:
        transcript.pieces.append(text)
        on_text(text)


def _think(transcript: Transcript, event: Token | End, on_reasoning: Callable[[str], None]) -> None:
    """What an event has beside text."""
    if event.reasoning:
        transcript.thoughts.append(event.reasoning)
        on_reasoning(event.reasoning)
    transcript.calls += event.calls


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 3)
