"""OpenAI's requests and answers as structs; those of the other routes are in `server.schemas`.

Fields that OpenAI's form has no place for are in `Rbee`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from rbee_worker.model_info import Task
from rbee_worker.params import ChatFields
from rbee_worker.params.conversation import ChosenName, ChosenTool, FunctionSchema, ToolSchema
from rbee_worker.sequence_end import StopRecord
from rbee_worker.server.schemas import (
    CalledFunction,
    ImagePart,
    ImageUrl,
    Message,
    MessageCall,
    Messages,
    Model,
    Seconds,
    TextPart,
    TokenId,
)

# ---- requests


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    include_usage: bool = False
    include_obfuscation: bool = False  # true is refused: no padding would be added


class CompletionEnvelope(Struct, kw_only=True):
    """`prompt`: a string, a list of strings, of ids, or of id lists."""

    prompt: str | list[str | TokenId | list[TokenId]] | None = None
    model: Model | None = None
    n: Annotated[int, Meta(ge=1, le=64)] = 1
    best_of: Annotated[int, Meta(ge=1, le=64)] | None = None
    add_special_tokens: bool | None = None
    stream: bool = False
    stream_options: StreamOptions | None = None
    timeout_s: Seconds | None = None


class ChatEnvelope(ChatFields, kw_only=True):
    messages: Messages
    model: Model | None = None
    n: Annotated[int, Meta(ge=1, le=64)] = 1
    stream: bool = False
    stream_options: StreamOptions | None = None
    template_args: dict[str, Any] = field(default_factory=dict)
    # vLLM's name for template_args
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    add_special_tokens: bool | None = None
    timeout_s: Seconds | None = None


NESTED: dict[str, tuple[type[Struct], ...]] = {  # structs inside a field of an envelope
    "messages": (Message, TextPart, ImagePart, ImageUrl, MessageCall, CalledFunction),
    "tools": (ToolSchema, FunctionSchema),
    "tool_choice": (ChosenTool, ChosenName),
    "stream_options": (StreamOptions,),
}


# ---- answers


class PromptDetails(Struct, frozen=True):
    cached_tokens: int


class CompletionDetails(Struct, frozen=True):
    reasoning_tokens: int


class TokenUsage(Struct, frozen=True, kw_only=True):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class Rbee(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the forms of OpenAI and Ollama have no place for: why the answer stopped, the seed to
    repeat it, and how many of its tokens were drafted (OpenAI's `prediction` is something else)."""

    stop: StopRecord
    seed: int
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    warnings: tuple[str, ...] = ()


class CompletionLogprobs(Struct, frozen=True, kw_only=True):
    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class CompletionChoice(Struct, frozen=True, kw_only=True):
    index: int
    text: str
    logprobs: CompletionLogprobs | None = None
    finish_reason: str | None = None
    rbee: Rbee | UnsetType = UNSET


class Completion(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str  # what tokens depend on, besides the request
    choices: list[CompletionChoice]
    usage: TokenUsage | UnsetType | None = UNSET


class TopLogprob(Struct, frozen=True):
    token: str
    logprob: float
    bytes: list[int]


class ChatLogprob(TopLogprob, frozen=True):
    top_logprobs: list[TopLogprob]


class ChatLogprobs(Struct, frozen=True):
    content: list[ChatLogprob]
    refusal: None = None


class Function(Struct, frozen=True, kw_only=True):
    name: str
    arguments: str  # JSON


class ToolCall(Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["function"] = "function"
    function: Function


class ChatMessage(Struct, frozen=True, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str | None  # null if there are only tool calls
    refusal: None = None
    reasoning_content: str | UnsetType = UNSET
    tool_calls: list[ToolCall] | UnsetType = UNSET


class DeltaFunction(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The name comes first, alone; then the arguments in pieces."""

    name: str | None = None
    arguments: str | None = None


class DeltaCall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A piece of a tool call; `id` and `type` only in its first."""

    index: int
    id: str | None = None
    type: Literal["function"] | None = None
    function: DeltaFunction


class ChatDelta(Struct, frozen=True, kw_only=True, omit_defaults=True):
    role: str | None = None
    content: str | None = None
    reasoning_content: str | None = None
    tool_calls: list[DeltaCall] | None = None


class ChatChoice(Struct, frozen=True, kw_only=True):
    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None = None
    finish_reason: str
    rbee: Rbee | UnsetType = UNSET


class ChatChunkChoice(Struct, frozen=True, kw_only=True):
    index: int
    delta: ChatDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: str | None = None
    rbee: Rbee | UnsetType = UNSET


class ChatCompletion(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChoice]
    usage: TokenUsage


class ChatChunk(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    system_fingerprint: str
    choices: list[ChatChunkChoice]
    usage: TokenUsage | UnsetType | None = UNSET


class ModelCard(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "rbee-worker"
    task: Task | UnsetType = UNSET  # what the model is for, once it is loaded
    input_modalities: list[Literal["text", "image"]] | UnsetType = UNSET  # likewise


class ModelList(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[ModelCard]
