"""Anthropic's requests and answers as structs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from rbee_worker.params.conversation import MOST_TOOLS, ToolName
from rbee_worker.sequence_end import StopRecord
from rbee_worker.server.schemas import Model
from rbee_worker.types import Effort

# ---- requests


class _Block(Struct, kw_only=True, tag_field="type", forbid_unknown_fields=True):
    cache_control: dict[str, Any] | None = None  # without effect: equal prefixes are found anyway


class TextBlock(_Block, tag="text"):
    text: str
    citations: None = None


class ThinkingBlock(_Block, tag="thinking"):
    """Reasoning of an earlier answer."""

    thinking: str
    signature: str = ""  # not checked: the worker makes none


class ToolUseBlock(_Block, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class ImageSource(Struct, kw_only=True, tag_field="type", tag="base64", forbid_unknown_fields=True):
    """media_type: not believed, the file says it itself."""

    data: str
    media_type: str = ""


class UrlSource(Struct, kw_only=True, tag_field="type", tag="url", forbid_unknown_fields=True):
    """url: a data URL; others are refused."""

    url: str


class ImageBlock(_Block, tag="image"):
    """A picture of a user's message."""

    source: ImageSource | UrlSource


class ToolResultBlock(_Block, tag="tool_result"):
    tool_use_id: str
    content: str | list[TextBlock | ImageBlock] = ""
    is_error: bool = False


Block = TextBlock | ImageBlock | ThinkingBlock | ToolUseBlock | ToolResultBlock


class Message(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant"]
    content: str | list[Block]


class ToolParam(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A tool of the caller's own."""

    name: ToolName
    input_schema: dict[str, Any]
    description: str | None = None
    type: Literal["custom"] | None = None
    strict: bool | None = None
    cache_control: dict[str, Any] | None = None


class ToolChoiceParam(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """any: one tool at least; tool: the one with that name."""

    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class ThinkingParam(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    type: Literal["enabled", "disabled"]
    budget_tokens: Annotated[int, Meta(ge=0)] | None = None


class OutputFormat(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer is one JSON value that follows the schema."""

    type: Literal["json_schema"]
    schema: dict[str, Any]


class OutputConfig(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """effort: for templates that read reasoning_effort."""

    format: OutputFormat | None = None
    effort: Effort | None = None


class PromptEnvelope(Struct, kw_only=True):
    """What makes the prompt."""

    messages: Annotated[list[Message], Meta(min_length=1, max_length=4096)]
    model: Model | None = None
    system: str | list[TextBlock] | None = None
    tools: Annotated[list[ToolParam], Meta(max_length=MOST_TOOLS)] | None = None
    tool_choice: ToolChoiceParam | None = None
    thinking: ThinkingParam | None = None
    output_config: OutputConfig | None = None


class MessagesEnvelope(PromptEnvelope, kw_only=True):
    """temperature, top_p, top_k, stop_sequences, and seed and speculation (which are the worker's
    own) are checked as those of other routes are."""

    max_tokens: Annotated[int, Meta(ge=1)]
    stream: bool = False
    temperature: Any = None
    top_p: Any = None
    top_k: Any = None
    stop_sequences: Any = None
    seed: Any = None
    speculation: Any = None
    metadata: Any = None  # without effect
    service_tier: Any = None  # without effect


# ---- answers


class Text(Struct, frozen=True, kw_only=True, tag_field="type", tag="text"):
    text: str


class Thinking(Struct, frozen=True, kw_only=True, tag_field="type", tag="thinking"):
    thinking: str
    signature: str = ""


class ToolUse(Struct, frozen=True, kw_only=True, tag_field="type", tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class Usage(Struct, frozen=True, kw_only=True):
    """input_tokens: those that no cache had."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int
    cache_creation_input_tokens: int = 0


class Told(StopRecord, frozen=True, kw_only=True):
    """What Anthropic's form has no place for: why the answer stopped, the seed to repeat it, how
    many of its tokens were drafted, and warnings about the model and the prompt."""

    seed: int
    drafted_tokens: int
    accepted_tokens: int
    warnings: tuple[str, ...]


class MessageAnswer(Struct, frozen=True, kw_only=True):
    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Text | Thinking | ToolUse]
    stop_reason: str | None
    stop_sequence: str | None
    usage: Usage
    rbee: Told | UnsetType = UNSET
