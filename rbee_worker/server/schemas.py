"""The bodies of requests (envelopes) and answers, as structs.

They are the only description of the wire: bodies are checked against them, answers are encoded from
them, and the OpenAPI document is generated from them. Job events are in `rbee_worker.wire`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from rbee_worker.answer_parts import CallPiece
from rbee_worker.params import ChatFields, PromptFields
from rbee_worker.sequence_end import StopRecord
from rbee_worker.types import Detail
from rbee_worker.wire import ScoredToken

Seconds = Annotated[float, Meta(gt=0, le=86_400)]
Model = Annotated[str, Meta(max_length=512)]
TokenId = Annotated[int, Meta(ge=0, le=(1 << 32) - 1)]


class TextPart(Struct, frozen=True, tag_field="type", tag="text", forbid_unknown_fields=True):
    text: str


class ImageUrl(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """url: a data URL in base64. detail: low: the whole picture once; high: also in pieces."""

    url: str
    detail: Detail = "auto"


class ImagePart(
    Struct, frozen=True, kw_only=True, tag_field="type", tag="image_url", forbid_unknown_fields=True
):
    """A picture of a user's message."""

    image_url: ImageUrl


class CalledFunction(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """arguments: the text of a JSON object, as OpenAI has it, or the object."""

    name: str
    arguments: str | dict[str, Any] = "{}"


class MessageCall(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool call of an earlier answer, as clients were given it."""

    id: str
    type: Literal["function"] = "function"
    function: CalledFunction
    index: int | None = None  # of a streamed answer; without effect


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One turn. `developer` means system. Clients send back whole messages that they received, so
    fields of features that are not implemented may be null or empty."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    # null is allowed for an assistant's only
    content: str | list[TextPart | ImagePart] | None = None
    name: str | None = None  # passed to the chat template, which may show it
    tool_calls: list[MessageCall] | None = None  # of an assistant's message
    tool_call_id: str | None = None  # of a tool's answer: the call that it answers
    reasoning_content: str | None = None  # of an assistant's message
    reasoning: str | None = None  # another name of it
    function_call: Any = None
    audio: Any = None
    refusal: Any = None
    annotations: Any = None
    parsed: Any = None


ECHOED = ("function_call", "audio", "refusal", "annotations", "parsed")
BY_ROLE = {"tool_calls": "assistant", "reasoning_content": "assistant", "tool_call_id": "tool"}
Messages = Annotated[list[Message], Meta(min_length=1, max_length=4096)]
Images = Annotated[list[str], Meta(max_length=1024)]  # data URLs, or base64 alone


# ---- jobs


class InferEnvelope(ChatFields, kw_only=True):
    """Exactly one of prompt, messages, token_ids. images: of a prompt or ids, in the order of the
    model's placeholders in it. chat_defaults: what neither the request nor the model says has the
    defaults of chats."""

    chat_defaults: bool = False

    prompt: str | None = None
    messages: Messages | None = None
    token_ids: list[TokenId] | None = None
    images: Images | None = None
    model: Model | None = None
    timeout_s: Seconds | None = None
    template_args: dict[str, Any] = field(default_factory=dict)
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
    reasoning: str | UnsetType = UNSET  # if there is any
    tool_calls: tuple[CallPiece, ...] | UnsetType = UNSET  # if there are any
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
    reasoning: str | UnsetType = UNSET  # if there is any
    tool_calls: tuple[CallPiece, ...] | UnsetType = UNSET  # if there are any
    token_ids: list[int]
    tokens_generated: int
    reasoning_tokens: int = 0
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
    # null: of text, as for a prompt, one opening token; of content, as in llama.cpp, none
    add_special: bool | None = None
    parse_special: bool = True
    with_pieces: bool = False  # llama.cpp's: tokens with their texts


class TokenPiece(Struct, frozen=True, kw_only=True):
    """piece: the bytes, where they are no text."""

    id: int
    piece: str | list[int]


class Tokenized(Struct, frozen=True, kw_only=True, omit_defaults=True):
    tokens: list[int | TokenPiece]
    count: int
    pieces: list[str]
    warnings: tuple[str, ...] = ()


class DetokenizeEnvelope(Struct, kw_only=True):
    tokens: list[TokenId]
    skip_special: bool = False


class Detokenized(Struct, frozen=True):
    """content: llama.cpp's name for text."""

    text: str
    content: str


class TemplateEnvelope(PromptFields, kw_only=True):
    messages: Messages
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    template_args: dict[str, Any] = field(default_factory=dict)


class Templated(Struct, frozen=True):
    prompt: str


class TokenCount(Struct, frozen=True):
    input_tokens: int
