"""The worker's own request, of one for a response."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rbee_worker.errors import FieldError
from rbee_worker.server.body import fault_of
from rbee_worker.server.field_names import FieldNames
from rbee_worker.server.responses.schemas import (
    FunctionTool,
    PromptEnvelope,
    ResponseEnvelope,
    TextParam,
)
from rbee_worker.types import ChatOptions

# the worker's names of fields -> the caller's
_NAMES = {
    "messages": "input",
    "prompt": "input",
    "max_tokens": "max_output_tokens",
    "max_completion_tokens": "max_output_tokens",
    "response_format.json_schema": "text.format",
    "response_format": "text.format",
    "reasoning_effort": "reasoning.effort",
    "tool_choice.function": "tool_choice",
    "logprobs": "top_logprobs",
}
# places in the messages are not those in the input
NAMES = FieldNames(_NAMES, whole=("messages", "prompt"))
_SAME = ("temperature", "top_p", "seed", "top_k", "min_p", "stop", "speculation", "thinking_budget")
LOGPROBS = "message.output_text.logprobs"
SEALED = "reasoning.encrypted_content"
# field -> what it asks for, and the values that ask for nothing
_UNSUPPORTED: dict[str, tuple[str, tuple[Any, ...]]] = {
    "conversation": ("conversations kept by the server: use previous_response_id", ()),
    "prompt": ("prompt templates", ()),
    "context_management": ("cutting a conversation that is too long", ([],)),
    "max_tool_calls": ("a limit of calls to built-in tools: there are none", ()),
    "moderation": ("moderation", ()),
    "image": ("pictures", ()),
    "access_programs": ("access programs", ()),
    "background_options": ("other times for answers in the background", ({},)),
    "truncation": ("cutting a prompt that is too long", ("disabled",)),
}


def prompt_faults(given: PromptEnvelope) -> list[FieldError]:
    """What a prompt asks for that is not implemented, or missing."""
    faults = [
        FieldError(name, "absent", f"{what}: not implemented")
        for name, (what, off) in _UNSUPPORTED.items()
        if getattr(given, name, None) is not None and getattr(given, name) not in off
    ]
    if given.text is not None and given.text.verbosity not in (None, "medium"):
        message = "is not implemented; only medium is accepted"
        faults.append(FieldError("text.verbosity", "medium", message))
    reasoning = given.reasoning
    for name in ("summary", "generate_summary"):
        if reasoning is not None and getattr(reasoning, name) is not None:
            message = "is not implemented: reasoning is given whole, as reasoning_text"
            faults.append(FieldError(f"reasoning.{name}", "absent", message))
    if not given.input and given.previous_response_id is None:
        faults.append(FieldError("input", "required", "is required"))
    return faults


def answer_faults(given: ResponseEnvelope) -> list[FieldError]:
    """What is wrong about how an answer is wanted."""
    faults = []
    for place, name in enumerate(given.include or ()):
        if name not in (LOGPROBS, SEALED):
            message = f"is not implemented; known: {LOGPROBS}, {SEALED}"
            faults.append(FieldError(f"include[{place}]", "a known part", message))
    if given.background and not given.store:
        message = "needs store: true, or its answer could not be fetched"
        faults.append(FieldError("background", "with store", message))
    options = given.stream_options
    if options is not None and not given.stream:
        faults.append(
            FieldError("stream_options", "with stream", "has no effect without stream: true")
        )
    if options is not None and options.include_obfuscation:
        name, message = "stream_options.include_obfuscation", "is not implemented"
        faults.append(FieldError(name, "false (not implemented)", message))
    return faults


def options_of(given: PromptEnvelope, faults: list[FieldError]) -> ChatOptions:
    """Tools, choice and reasoning; faults of tools are added to `faults`."""
    choice = given.tool_choice or "auto"
    tools = []
    for place, tool in enumerate(given.tools or ()):
        name = f"tools[{place}]"
        if tool.get("type") != "function":
            message = "is not implemented: only tools of type function are"
            faults.append(FieldError(f"{name}.type", "function", message))
            continue
        try:
            tools.append(_tool(msgspec.convert(tool, FunctionTool)))
        except msgspec.ValidationError as error:
            faults.append(fault_of(name, error))
    return ChatOptions(
        tools=tuple(tools),
        tool_choice=choice if isinstance(choice, str) else {"name": choice.name},
        parallel_tool_calls=given.parallel_tool_calls is not False,
        reasoning_effort=None if given.reasoning is None else given.reasoning.effort,
    )


def params_of(given: ResponseEnvelope, values: Mapping[str, Any]) -> dict[str, Any]:
    """The sampling parameters under the worker's names."""
    params = {name: values[name] for name in _SAME if name in values}
    if values.get("max_output_tokens") is not None:
        params["max_tokens"] = values["max_output_tokens"]
    if given.top_logprobs is not None or LOGPROBS in (given.include or ()):
        params |= {"logprobs": True, "top_logprobs": given.top_logprobs}
    if given.text is not None and given.text.format is not None:
        params["response_format"] = _format(given.text)
    return params


def _format(text: TextParam) -> Any:
    """`text.format` in the form of chat completions, which has one more level."""
    assert text.format is not None
    inner = {k: v for k, v in text.format.items() if k != "type"}
    kind = text.format.get("type")
    return {"type": kind, "json_schema": inner} if kind == "json_schema" else text.format


def _tool(tool: FunctionTool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.parameters is not None:
        function["parameters"] = tool.parameters
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}
