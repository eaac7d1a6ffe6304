"""Requests and answers of Ollama as structs."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from rbee_worker.params.conversation import Tools
from rbee_worker.server.openai.schemas import ChatLogprob, Rbee
from rbee_worker.server.schemas import Images, Model

# ---- requests


class CalledFunction(Struct, kw_only=True, forbid_unknown_fields=True):
    name: str
    arguments: dict[str, Any] = {}
    index: int | None = None  # without effect
    description: str | None = None  # without effect


class Call(Struct, kw_only=True, forbid_unknown_fields=True):
    """A tool call of an earlier answer."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] | None = None


class Message(Struct, kw_only=True, forbid_unknown_fields=True):
    """One turn. tool_name: of a tool's answer; without it, and without tool_call_id, the answer
    belongs to the first call that has none yet."""

    role: Literal["system", "user", "assistant", "tool"]
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[Call] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    images: Images | None = None  # of the user's


class _Common(Struct, kw_only=True):
    """keep_alive: without effect, because the model stays."""

    model: Model | None = None
    options: dict[str, Any] | None = None
    keep_alive: float | str | None = None


class AnswerEnvelope(_Common, kw_only=True):
    """What both kinds of answers may be asked for with."""

    stream: bool = True
    format: dict[str, Any] | Literal["json", ""] | None = None
    think: bool | Literal["low", "medium", "high"] | None = None
    logprobs: Any = None
    top_logprobs: Any = None


class ChatEnvelope(AnswerEnvelope, kw_only=True):
    messages: Annotated[list[Message], Meta(max_length=4096)] | None = None
    tools: Tools | None = None


class GenerateEnvelope(AnswerEnvelope, kw_only=True):
    """raw: the prompt is not put into the chat template. suffix: what follows the gap that the
    answer fills, for models that know how."""

    prompt: str | None = None
    system: str | None = None
    suffix: str | None = None
    raw: bool = False
    images: Images | None = None  # of a raw prompt: in the order of its placeholders
    template: Any = None  # refused, unless empty, like the next four
    context: Any = None
    width: Any = None
    height: Any = None
    steps: Any = None


class EmbedEnvelope(_Common, kw_only=True):
    input: str | list[str]
    truncate: bool = True
    dimensions: Annotated[int, Meta(ge=1)] | None = None


class OldEmbedEnvelope(_Common, kw_only=True):
    prompt: str


class ShowEnvelope(Struct, kw_only=True):
    """name: the old name of model. verbose: without effect, because all is shown."""

    model: Model | None = None
    name: Model | None = None
    verbose: bool | None = None


class Unread(Struct):
    """The body of a route that refuses whatever it gets."""


# ---- answers


class _Line(Struct, kw_only=True):
    """One line; the figures only in the last one. Durations in nanoseconds."""

    model: str
    created_at: str
    done: bool
    done_reason: str | UnsetType = UNSET
    logprobs: list[ChatLogprob] | UnsetType = UNSET
    total_duration: int | UnsetType = UNSET
    load_duration: int | UnsetType = UNSET
    prompt_eval_count: int | UnsetType = UNSET
    prompt_eval_duration: int | UnsetType = UNSET
    eval_count: int | UnsetType = UNSET
    eval_duration: int | UnsetType = UNSET
    rbee: Rbee | UnsetType = UNSET  # what Ollama's form has no place for; in the last line


class AnsweredFunction(Struct, kw_only=True):
    index: int
    name: str
    arguments: dict[str, Any]


class AnsweredCall(Struct, kw_only=True):
    id: str
    function: AnsweredFunction


class AnsweredMessage(Struct, kw_only=True):
    role: Literal["assistant"] = "assistant"
    content: str = ""
    thinking: str | UnsetType = UNSET
    tool_calls: list[AnsweredCall] | UnsetType = UNSET


class ChatLine(_Line, kw_only=True):
    message: AnsweredMessage


class GenerateLine(_Line, kw_only=True):
    response: str
    thinking: str | UnsetType = UNSET


class Embedded(Struct, kw_only=True):
    model: str
    embeddings: list[list[float]]
    total_duration: int
    load_duration: int
    prompt_eval_count: int


class OldEmbedded(Struct, kw_only=True):
    embedding: list[float]


class Details(Struct, kw_only=True):
    parent_model: str = ""
    format: str
    family: str
    families: list[str]
    parameter_size: str
    quantization_level: str


class Tag(Struct, kw_only=True):
    """digest: of the name, because no other is known of every kind of model."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(Struct):
    models: list[Tag]


class Running(Tag, kw_only=True):
    expires_at: str
    size_vram: int
    context_length: int


class Processes(Struct):
    models: list[Running]


class Shown(Struct, kw_only=True):
    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: list[str]
    modified_at: str


class Version(Struct):
    version: str
