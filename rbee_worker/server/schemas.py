"""The bodies of requests (envelopes) and answers, as structs.

They are the only description of the wire: bodies are checked against them, answers are encoded from
them, and the OpenAPI document is generated from them. Job events are in `rbee_worker.wire`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from rbee_worker.types import StopRecord
from rbee_worker.wire import ScoredToken

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Model = Annotated[str, Meta(max_length=512)]
TokenId = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]


class TextPart(Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["text"]
    text: str


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn. `developer` means system. Clients send back whole messages that they received, so
    fields of features that are not implemented may be null or empty."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart] | None = None  # null is allowed for an assistant's only
    name: str | None = None  # passed to the chat template, which may show it
    tool_calls: Any = None
    tool_call_id: Any = None
    function_call: Any = None
    audio: Any = None
    refusal: Any = None
    annotations: Any = None
    reasoning: Any = None
    reasoning_content: Any = None
    parsed: Any = None


ECHOED = tuple(f for f in Message.__struct_fields__ if f not in ("role", "content", "name"))
Messages = Annotated[list[Message], Meta(min_length=1, max_length=4096)]


# ---- jobs


class InferEnvelope(Struct, kw_only=True):
    """Exactly one of prompt, messages, token_ids."""

    prompt: str | None = None
    messages: Messages | None = None
    token_ids: list[TokenId] | None = None
    model: Model | None = None
    timeout_s: Seconds | None = None
    template_args: dict[str, Any] = {}
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None


class JobEnvelope(InferEnvelope, kw_only=True):
    """The same for a job; operation "infer" needs the prompt, "status" takes none."""

    operation: str = "infer"
    trace: bool = False


class JobCreated(Struct, frozen=True, kw_only=True, omit_defaults=True):
    job_id: str
    sse_url: str
    status: dict[str, Any] | UnsetType = UNSET  # operation "status": the worker's state


class JobError(Struct, frozen=True):
    code: str
    message: str


class JobState(Struct, frozen=True, kw_only=True):
    """A job and, once it has ended, its result."""

    job_id: str
    state: Literal["queued", "running", "done", "cancelled", "timeout", "failed"]
    created_at: str
    finished_at: str | None
    model: str
    sse_url: str
    correlation_id: str
    prompt_tokens: int
    tokens_out: int
    text: str
    token_ids: list[int]
    stop_reason: str | None = None
    stop: StopRecord | None = None
    error: JobError | None = None
    warnings: tuple[str, ...] = ()
    logprobs: list[ScoredToken] | UnsetType = UNSET  # if requested
    prompt_logprobs: list[ScoredToken | None] | UnsetType = UNSET  # if requested, with echo


class JobSummary(Struct, frozen=True, kw_only=True):
    job_id: str
    state: str
    created_at: str
    prompt_tokens: int
    tokens_out: int
    stop_reason: str | None = None


class JobList(Struct, frozen=True):
    """Newest first."""

    jobs: list[JobSummary]


class InferResult(Struct, frozen=True, kw_only=True):
    text: str
    token_ids: list[int]
    tokens_generated: int
    prompt_tokens: int
    cached_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    duration_ms: float
    prefill_time_ms: float
    decode_time_ms: float
    queue_time_ms: float
    seed: int
    stop_reason: str
    stop_sequence_matched: str | None
    stop: StopRecord
    sampling: dict[str, Any]
    warnings: tuple[str, ...] = ()
    logprobs: list[ScoredToken] | UnsetType = UNSET  # if requested
    prompt_logprobs: list[ScoredToken | None] | UnsetType = UNSET  # if requested, with echo


# ---- text


class TokenizeEnvelope(Struct, kw_only=True):
    text: str | None = None
    content: str | None = None  # llama.cpp's name for text
    add_special: bool | None = None  # null: as for a prompt, one opening token
    parse_special: bool = True


class Tokenized(Struct, frozen=True, kw_only=True, omit_defaults=True):
    tokens: list[int]
    count: int
    pieces: list[str]
    warnings: tuple[str, ...] = ()


class DetokenizeEnvelope(Struct, kw_only=True):
    tokens: list[TokenId]
    skip_special: bool = False


class Detokenized(Struct, frozen=True):
    text: str


class TemplateEnvelope(Struct, kw_only=True):
    messages: Messages
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    template_args: dict[str, Any] = {}


class Templated(Struct, frozen=True):
    prompt: str
