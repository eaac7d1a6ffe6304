"""Job events in their wire form: what the server writes and the Python client reads.

`types.Event` is what happened; this module is how a job stream represents it (docs/worker-api.md,
"Job events"). The structs are also the source of the OpenAPI schema. No HTTP here.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET, Struct, UnsetType

from rbee_worker import types
from rbee_worker.answer_parts import CallPiece
from rbee_worker.sequence_end import StopRecord

TokenText = Callable[[int], str]  # an id's text in the vocabulary, for reports


class ResolvedValue(Struct, frozen=True):
    """One parameter's value, and its origin."""

    value: Any
    origin: str  # "request", "worker option", "generation_config", "default", ...


class LikelyToken(Struct, frozen=True):
    id: int
    token: str
    logprob: float


class ScoredToken(Struct, frozen=True):
    """log softmax of the raw logits at one position."""

    id: int
    token: str
    logprob: float
    top: tuple[LikelyToken, ...] = ()


class Started(Struct, frozen=True, kw_only=True, tag="started", tag_field="type"):
    job_id: str
    model: str
    started_at: str  # ISO 8601
    prompt_tokens: int
    seed: int
    sampling: dict[str, ResolvedValue]
    exempt_ids: tuple[int, ...] = ()  # ids that the repetition penalty never changes
    ignored: tuple[str, ...] = ()  # unknown keys that --lenient let through
    warnings: tuple[str, ...] = ()


class Token(Struct, frozen=True, kw_only=True, omit_defaults=True, tag="token", tag_field="type"):
    t: str
    i: int
    ids: tuple[int, ...]
    logprobs: tuple[ScoredToken, ...] | None = None
    reasoning: str = ""  # comes before `t`
    calls: tuple[CallPiece, ...] = ()  # come after it


class PromptLogprobs(Struct, frozen=True, kw_only=True, tag="prompt_logprobs", tag_field="type"):
    """Scores of the prompt's next tokens, as they are computed: a long prompt has several of these
    events. One entry per token; None for the first of all, which has nothing before it."""

    logprobs: tuple[ScoredToken | None, ...]


class Narration(Struct, frozen=True, kw_only=True, tag="narration", tag_field="type"):
    actor: str
    action: str
    target: str
    human: str
    job_id: str | None = None


class Metrics(Struct, frozen=True, kw_only=True, tag="metrics", tag_field="type"):
    tokens_per_sec: float
    vram_bytes: int
    kv_usage: float  # 0..1


class End(Struct, frozen=True, kw_only=True, tag="end", tag_field="type"):
    tokens_out: int
    prompt_tokens: int
    cached_tokens: int
    decode_time_ms: float
    prefill_time_ms: float
    queue_time_ms: float
    stop_reason: str
    stop_sequence_matched: str | None
    stop: StopRecord
    preemptions: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    ids: tuple[int, ...] = ()  # last ids, which completed no character or are in a stop string
    text: str = ""  # the rest of the text
    reasoning: str | UnsetType = UNSET  # the rest of it, if there is any
    calls: tuple[CallPiece, ...] | UnsetType = UNSET
    reasoning_tokens: int = 0
    logprobs: tuple[ScoredToken, ...] | UnsetType = UNSET  # of `ids`, if requested
    trace: list[dict[str, Any]] | UnsetType = UNSET  # with `"trace": true`: this job's phases


class Error(Struct, frozen=True, kw_only=True, tag="error", tag_field="type"):
    code: str
    message: str


JobEvent = Started | Token | PromptLogprobs | Narration | Metrics | End | Error


def sampling_table(resolved: types.Resolved) -> dict[str, ResolvedValue]:
    """Every resolved parameter with its origin; the origin of a field without one is `default`."""
    values = msgspec.structs.asdict(resolved.params)
    values["logit_bias"] = {str(k): v for k, v in resolved.params.logit_bias.items()}
    return {k: ResolvedValue(v, resolved.origins.get(k, "default")) for k, v in values.items()}


def scored(entry: types.TokenLogprob, text: TokenText) -> ScoredToken:
    top = tuple(LikelyToken(i, text(i), p) for i, p in entry.top)
    return ScoredToken(entry.id, text(entry.id), entry.logprob, top)


def job_event(
    event: types.Event, text: TokenText, trace: list[dict[str, Any]] | UnsetType = UNSET
) -> JobEvent:
    """The wire form of `event`; text: names the ids in logprobs; trace: goes into the `end`
    event."""
    match event:
        case types.Token(t=t, i=i, ids=ids, logprobs=None, reasoning="", calls=()):
            return Token(t=t, i=i, ids=ids)
        case types.Token(logprobs=entries):
            return Token(
                t=event.t,
                i=event.i,
                ids=event.ids,
                logprobs=None if entries is None else tuple(scored(e, text) for e in entries),
                reasoning=event.reasoning,
                calls=event.calls,
            )
        case types.Started():
            return Started(
                job_id=event.job_id,
                model=event.model,
                started_at=event.started_at,
                prompt_tokens=event.prompt_tokens,
                seed=event.seed,
                sampling=sampling_table(event.sampling),
                exempt_ids=event.sampling.exempt_ids,
                ignored=event.sampling.ignored,
                warnings=event.warnings,
            )
        case types.PromptLogprobs():
            return PromptLogprobs(
                logprobs=tuple(None if e is None else scored(e, text) for e in event.logprobs)
            )
        case types.Narration():
            return Narration(
                actor=event.actor,
                action=event.action,
                target=event.target,
                human=event.human,
                job_id=event.job_id,
            )
        case types.Metrics():
            return Metrics(
                tokens_per_sec=event.tokens_per_sec,
                vram_bytes=event.vram_bytes,
                kv_usage=event.kv_usage,
            )
        case types.End():
            return _end(event, text, trace)
        case types.Vector():
            raise AssertionError("jobs that can be streamed give no vectors")
        case types.Error():
            return Error(code=event.code, message=event.message)


def _end(event: types.End, text: TokenText, trace: list[dict[str, Any]] | UnsetType) -> End:
    usage, scores = event.usage, event.logprobs
    return End(
        tokens_out=usage.output_tokens,
        prompt_tokens=usage.prompt_tokens,
        cached_tokens=usage.cached_tokens,
        decode_time_ms=round(usage.decode_ms, 3),
        prefill_time_ms=round(usage.prefill_ms, 3),
        queue_time_ms=round(usage.queue_ms, 3),
        stop_reason=event.stop.rule,
        stop_sequence_matched=event.stop.sequence,
        stop=event.stop,
        preemptions=usage.preemptions,
        drafted_tokens=usage.drafted_tokens,
        accepted_tokens=usage.accepted_tokens,
        ids=event.ids,
        text=event.text,
        reasoning=event.reasoning or UNSET,
        calls=event.calls or UNSET,
        reasoning_tokens=usage.reasoning_tokens,
        logprobs=UNSET if scores is None else tuple(scored(e, text) for e in scores),
        trace=trace,
    )
