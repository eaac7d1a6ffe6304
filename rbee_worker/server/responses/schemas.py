"""Requests and answers of OpenAI's Responses as structs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

from rbee_worker.params.conversation import MOST_TOOLS, ToolName
from rbee_worker.server.openai.schemas import ChatLogprob, Rbee
from rbee_worker.server.schemas import Model
from rbee_worker.types import Effort

MOST_ITEMS = 4096

# ---- requests


class FunctionTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A function of the caller's own. strict: only true holds its arguments to the schema."""

    type: Literal["function"]
    name: ToolName
    parameters: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class NamedTool(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The one function that must be called."""

    type: Literal["function"]
    name: ToolName


class ReasoningParam(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """summary, generate_summary: refused, because reasoning is given whole."""

    effort: Effort | None = None
    summary: Any = None
    generate_summary: Any = None


class TextParam(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """format: text, json_object or json_schema."""

    format: dict[str, Any] | None = None
    verbosity: Any = None  # only medium, which changes nothing


class StreamOptions(Struct, frozen=True, forbid_unknown_fields=True):
    include_obfuscation: bool = False  # true is refused: no padding would be added


class PromptEnvelope(Struct, kw_only=True):
    """What makes the prompt."""

    input: str | Annotated[list[Any], Meta(max_length=MOST_ITEMS)] | None = None
    model: Model | None = None
    instructions: str | None = None
    previous_response_id: Annotated[str, Meta(max_length=128)] | None = None
    tools: Annotated[list[dict[str, Any]], Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: Literal["auto", "none", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    reasoning: ReasoningParam | None = None
    text: TextParam | None = None
    truncation: Any = None  # only disabled: a prompt is never cut
    conversation: Any = None  # not implemented, like all that follow


class ResponseEnvelope(PromptEnvelope, kw_only=True):
    """The sampling parameters are checked as those of other routes are; seed, top_k, min_p, stop,
    speculation and thinking_budget are the worker's own."""

    stream: bool = False
    stream_options: StreamOptions | None = None
    store: bool = True
    background: bool = False
    include: list[str] | None = None
    metadata: dict[str, str] | None = None  # given back with the answer
    max_output_tokens: Any = None
    temperature: Any = None
    top_p: Any = None
    top_logprobs: Any = None
    seed: Any = None
    top_k: Any = None
    min_p: Any = None
    stop: Any = None
    speculation: Any = None
    thinking_budget: Any = None
    user: Any = None  # without effect, like the next five
    safety_identifier: Any = None
    service_tier: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    prompt: Any = None  # not implemented, like all that follow
    context_management: Any = None
    max_tool_calls: Any = None
    moderation: Any = None
    image: Any = None
    access_programs: Any = None
    background_options: Any = None


# ---- answers


class OutputText(Struct, kw_only=True, tag_field="type", tag="output_text"):
    text: str = ""
    annotations: list[Any] = field(default_factory=list)
    logprobs: list[ChatLogprob] = field(default_factory=list)  # if asked for


class ReasoningText(Struct, kw_only=True, tag_field="type", tag="reasoning_text"):
    text: str = ""


ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputMessage(Struct, kw_only=True, tag_field="type", tag="message"):
    id: str
    role: Literal["assistant"] = "assistant"
    status: ItemStatus = "in_progress"
    content: list[OutputText] = field(default_factory=list)


class Reasoning(Struct, kw_only=True, tag_field="type", tag="reasoning"):
    """encrypted_content: the reasoning for clients that send it back without understanding it, if
    asked for. It is no secret: base64."""

    id: str
    summary: list[Any] = field(default_factory=list)
    content: list[ReasoningText] = field(default_factory=list)
    encrypted_content: str | None = None
    status: ItemStatus = "in_progress"


class FunctionCall(Struct, kw_only=True, tag_field="type", tag="function_call"):
    id: str
    call_id: str
    name: str
    arguments: str = ""
    status: ItemStatus = "in_progress"


OutputItem = OutputMessage | Reasoning | FunctionCall


class InputDetails(Struct, frozen=True):
    cached_tokens: int
    cache_write_tokens: int = 0


class OutputDetails(Struct, frozen=True):
    reasoning_tokens: int


class Usage(Struct, frozen=True, kw_only=True):
    input_tokens: int
    input_tokens_details: InputDetails
    output_tokens: int
    output_tokens_details: OutputDetails
    total_tokens: int


class IncompleteDetails(Struct, frozen=True):
    reason: Literal["max_output_tokens"] = "max_output_tokens"


class ResponseError(Struct, frozen=True):
    message: str
    code: Literal["server_error"] = "server_error"


Status = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class ResponseAnswer(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    created_at: int
    completed_at: int | None
    status: Status
    background: bool
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    reasoning: dict[str, Any]
    store: bool
    temperature: float | None
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]
    top_logprobs: int
    top_p: float | None
    truncation: Literal["disabled"] = "disabled"
    usage: Usage | None
    rbee: Rbee | UnsetType = UNSET


class Deleted(Struct, frozen=True, kw_only=True):
    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True


class InputItems(Struct, frozen=True, kw_only=True):
    object: Literal["list"] = "list"
    data: list[dict[str, Any]]
    first_id: str
    last_id: str
    has_more: Literal[False] = False


class InputTokens(Struct, frozen=True, kw_only=True):
    object: Literal["response.input_tokens"] = "response.input_tokens"
    input_tokens: int
