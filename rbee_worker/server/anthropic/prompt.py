"""Anthropic's messages, tools and choices as the worker's own request has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rbee_worker.errors import FieldError
from rbee_worker.params import Rules
from rbee_worker.server.anthropic.schemas import (
    ImageBlock,
    Message,
    PromptEnvelope,
    TextBlock,
    ThinkingBlock,
    ToolChoiceParam,
    ToolParam,
    ToolResultBlock,
    ToolUseBlock,
    UrlSource,
)
from rbee_worker.server.pictures import from_base64, from_url, part
from rbee_worker.server.thinking import switched
from rbee_worker.types import ChatOptions, PictureFile


def messages_of(given: PromptEnvelope, faults: list[FieldError]) -> tuple[dict[str, Any], ...]:
    """The conversation with the system message, and each tool's answer as a message of its own; its
    parts have the files of pictures. Faults of pictures are added to `faults`."""
    found: list[dict[str, Any]] = []
    if given.system is not None:
        found.append({"role": "system", "content": _text(given.system)})
    for place, message in enumerate(given.messages or ()):
        if message.role == "assistant":
            found += _assistant(message)
        else:
            found += _user(message, f"messages[{place}]", faults)
    return tuple(found)


def faults_of(messages: Sequence[Message]) -> list[FieldError]:
    """Blocks in messages of the wrong role."""
    faults = []
    for place, message in enumerate(messages):
        if isinstance(message.content, str):
            continue
        for at, block in enumerate(message.content):
            name = f"messages[{place}].content[{at}]"
            wrong = isinstance(block, ToolResultBlock | ImageBlock) != (message.role == "user")
            if wrong and not isinstance(block, TextBlock):
                faults.append(FieldError(name, "a block of this role", "is of the other role"))
            if isinstance(block, ToolResultBlock) and isinstance(block.content, list):
                faults += [
                    FieldError(f"{name}.content[{n}]", "text", "is a picture of a tool's answer")
                    for n, part in enumerate(block.content)
                    if isinstance(part, ImageBlock)
                ]
    return faults


def options_of(given: PromptEnvelope, rules: Rules) -> tuple[ChatOptions, list[FieldError]]:
    """Tools, choice and the switch for reasoning; faults where they say nothing."""
    faults: list[FieldError] = []
    thinking = None if given.thinking is None else given.thinking.type == "enabled"
    choice = given.tool_choice or ToolChoiceParam(type="auto")
    wanted: Any = {"any": "required", "tool": {"name": choice.name or ""}}.get(
        choice.type, choice.type
    )
    if choice.type == "tool" and choice.name is None:
        faults.append(FieldError("tool_choice.name", "required", "is required"))
    options = ChatOptions(
        tools=tuple(_tool(tool) for tool in given.tools or ()),
        tool_choice=wanted,
        parallel_tool_calls=not choice.disable_parallel_tool_use,
        reasoning_effort=None if given.output_config is None else given.output_config.effort,
        enable_thinking=None if thinking is None else switched("thinking", thinking, rules, faults),
        chat_defaults=True,
    )
    return options, faults


def _tool(tool: ToolParam) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name}
    if tool.description is not None:
        function["description"] = tool.description
    function["parameters"] = tool.input_schema
    if tool.strict:
        function["strict"] = True
    return {"type": "function", "function": function}


def _user(message: Message, name: str, faults: list[FieldError]) -> list[dict[str, Any]]:
    """Tools' answers first, then what the user says and shows."""
    if isinstance(message.content, str):
        return [{"role": "user", "content": message.content}]
    results = [b for b in message.content if isinstance(b, ToolResultBlock)]
    parts: list[dict[str, Any]] = []
    for at, block in enumerate(message.content):
        if isinstance(block, TextBlock):
            parts.append({"type": "text", "text": block.text})
        elif isinstance(block, ImageBlock):
            parts.append(part(_file(block, f"{name}.content[{at}]", faults)))
    found = [
        {"role": "tool", "tool_call_id": b.tool_use_id, "content": _result(b)} for b in results
    ]
    return found + ([{"role": "user", "content": parts}] if parts else [])


def _file(block: ImageBlock, name: str, faults: list[FieldError]) -> PictureFile:
    if isinstance(block.source, UrlSource):
        return from_url(block.source.url, name, faults)
    return from_base64(block.source.data, name, faults)


def _result(block: ToolResultBlock) -> str:
    text = _text(block.content)
    return f"Error: {text}" if block.is_error else text


def _assistant(message: Message) -> list[dict[str, Any]]:
    if isinstance(message.content, str):
        return [{"role": "assistant", "content": message.content}]
    texts = [b.text for b in message.content if isinstance(b, TextBlock)]
    thoughts = [b.thinking for b in message.content if isinstance(b, ThinkingBlock)]
    calls = [
        {
            "id": b.id,
            "type": "function",
            "function": {"name": b.name, "arguments": json.dumps(b.input, ensure_ascii=False)},
        }
        for b in message.content
        if isinstance(b, ToolUseBlock)
    ]
    found: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts) or None}
    if calls:
        found["tool_calls"] = calls
    if thoughts:
        found["reasoning_content"] = "\n".join(thoughts)
    return [found]


def _text(content: str | Sequence[TextBlock | ImageBlock]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block.text for block in content if isinstance(block, TextBlock))
