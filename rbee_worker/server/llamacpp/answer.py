"""The events of jobs as llama.cpp's completions: pieces of an answer, and its end with figures."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from rbee_worker.errors import one_line
from rbee_worker.sequence_end import Usage
from rbee_worker.server.encoding import LONG
from rbee_worker.server.jobs import Job
from rbee_worker.server.llamacpp.schemas import (
    Answer,
    Piece,
    Probability,
    Timings,
    TokenProbability,
)
from rbee_worker.server.llamacpp.settings import settings_of
from rbee_worker.server.openai.shared import Pieces
from rbee_worker.server.sse import frame
from rbee_worker.types import End, Error, Event, Token, TokenLogprob

_STOPS: Mapping[str, Any] = {
    "EOS": "eos",
    "COMPLETE": "eos",
    "STOP_SEQUENCE": "word",
    "MAX_TOKENS": "limit",
    "CONTEXT_FULL": "limit",
    "TIMEOUT": "limit",
}


async def prompt_texts(jobs: Sequence[Job], pieces: Pieces) -> list[str]:
    """The text of each job's prompt, special tokens with their names."""
    given = [() if job.started is None else job.started.prompt_ids for job in jobs]

    def made() -> list[str]:
        found = {ids: pieces.text(ids) for ids in set(given)}
        return [found[ids] for ids in given]

    return made() if sum(map(len, given)) <= LONG else await asyncio.to_thread(made)


class Completions:
    """The answers of one request. prompts: the text of each one's prompt; fields: those of an
    answer that are wanted, [] for all."""

    def __init__(
        self,
        jobs: Sequence[Job],
        model: str,
        pieces: Pieces,
        prompts: Sequence[str],
        *,
        stream: bool,
        tokens: bool,
        fields: Sequence[str],
    ) -> None:
        self._jobs = jobs
        self._model = model
        self._pieces = pieces
        self._prompts = prompts
        self._stream = stream
        self._tokens = tokens
        self._fields = fields
        self._encode = msgspec.json.Encoder().encode

    def event(self, choice: int, place: int, event: Event) -> bytes:
        """Frames for one event of one job."""
        if isinstance(event, Token):
            return frame(self._encode(self._piece(choice, event.t, event)))
        if isinstance(event, End):
            rest = self._piece(choice, event.text, event)
            frames = frame(self._encode(rest)) if rest.content or rest.tokens else b""
            return frames + frame(self._encode(self._chosen(self._end(choice, event))))
        if isinstance(event, Error):
            told = {"code": 500, "message": one_line(event.message), "type": "server_error"}
            return frame(self._encode({"error": told}))
        return b""

    def done(self) -> bytes:
        """Nothing follows the last answer's end."""
        return b""

    def whole(self) -> Any:
        """All answers: one, or a list of several."""
        found = [self._chosen(self._whole(choice)) for choice in range(len(self._jobs))]
        return found[0] if len(found) == 1 else found

    def _whole(self, choice: int) -> Answer:
        job = self._jobs[choice]
        assert job.end is not None
        answer = self._end(choice, job.end)
        events = [e for e in job.log.events if isinstance(e, Token | End)]
        answer.content = job.text()
        answer.tokens = job.token_ids() if self._tokens else []
        rows = [self._rows(e.ids, e.logprobs) for e in events]
        if any(row is not UNSET for row in rows):
            answer.completion_probabilities = [r for row in rows if row for r in row]
        return answer

    def _piece(self, choice: int, text: str, event: Token | End) -> Piece:
        started = self._jobs[choice].started
        assert started is not None
        at = event.i + len(event.ids) if isinstance(event, Token) else event.usage.output_tokens
        return Piece(
            index=choice,
            content=text,
            tokens=list(event.ids),
            tokens_predicted=at,
            tokens_evaluated=started.prompt_tokens,
            completion_probabilities=self._rows(event.ids, event.logprobs),
        )

    def _end(self, choice: int, end: End) -> Answer:
        job = self._jobs[choice]
        started = job.started
        assert started is not None
        usage, stop = end.usage, end.stop
        return Answer(
            index=choice,
            content="",
            tokens=[],
            model=self._model,
            tokens_predicted=usage.output_tokens,
            tokens_evaluated=usage.prompt_tokens,
            generation_settings=settings_of(started.sampling.params, stream=self._stream),
            prompt=self._prompts[choice],
            has_new_line="\n" in job.text(),
            truncated=stop.rule == "CONTEXT_FULL",
            stop_type=_STOPS.get(stop.rule, "none"),
            stopping_word=stop.sequence or "",
            tokens_cached=usage.cached_tokens,
            timings=_timings(usage),
            rbee=stop,
        )

    def _rows(
        self, ids: Sequence[int], entries: Sequence[TokenLogprob] | None
    ) -> list[TokenProbability] | UnsetType:
        if entries is None:
            return UNSET
        return [
            TokenProbability(
                id=token,
                token=self._pieces.name(token),
                bytes=list(self._pieces.raw(token)),
                logprob=entry.logprob,
                top_logprobs=[self._likely(i, p) for i, p in entry.top],
            )
            for token, entry in zip(ids, entries, strict=True)
        ]

    def _likely(self, token: int, logprob: float) -> Probability:
        raw = self._pieces.raw(token)
        return Probability(
            id=token, token=self._pieces.name(token), bytes=list(raw), logprob=logprob
        )

    def _chosen(self, answer: Answer) -> Any:
        """The answer, or those of its fields that were asked for: `a/b` is b of a, under that
        name."""
        if not self._fields:
            return answer
        whole = msgspec.to_builtins(answer)
        found = {}
        for name in self._fields:
            value: Any = whole
            for part in name.split("/"):
                value = value.get(part) if isinstance(value, dict) else None
            if value is not None:
                found[name] = value
        return found


def _timings(usage: Usage) -> Timings:
    computed = usage.prompt_tokens - usage.cached_tokens
    return Timings(
        cache_n=usage.cached_tokens,
        prompt_n=computed,
        prompt_ms=usage.prefill_ms,
        prompt_per_token_ms=usage.prefill_ms / max(computed, 1),
        prompt_per_second=_rate(computed, usage.prefill_ms),
        predicted_n=usage.output_tokens,
        predicted_ms=usage.decode_ms,
        predicted_per_token_ms=usage.decode_ms / max(usage.output_tokens, 1),
        predicted_per_second=_rate(usage.output_tokens, usage.decode_ms),
        draft_n=usage.drafted_tokens,
        draft_n_accepted=usage.accepted_tokens,
    )


def _rate(tokens: int, ms: float) -> float:
    return tokens / ms * 1e3 if ms > 0 else 0.0
