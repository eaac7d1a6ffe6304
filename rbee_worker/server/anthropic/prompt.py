"""Anthropic's messages, tools and choices as the worker's own request has them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from rbee_worker.errors import FieldError
from rbee_worker.params import Rules
from rbee_worker.server.anthropic.schemas import (
    Message,
    PromptEnvelope,
    TextBlock,
    ThinkingBlock,
    ToolChoiceParam,
    ToolParam,
    ToolResultBlock,
    ToolUseBlock,
)
from rbee_worker.server.thinking import switched
from rbee_worker.types import ChatOptions


def messages_of(given: PromptEnvelope) -> tuple[dict[str, Any], ...]:
    """The conversation with the system message, and each tool's answer as a message of its own."""
    found: list[dict[str, Any]] = []
    if given.system is not None:
        found.append({"role": "system", "content": _text(given.system)})
    for message in given.messages or ():
        found += _assistant(message) if message.role == "assistant" else _user(message)
    return tuple(found)


def faults_of(messages: Sequence[Message]) -> list[FieldError]:
    """Blocks in messages of the wrong role."""
    faults = []
    for place, message in enumerate(messages):
        if isinstance(message.content, str):
            continue
        for at, block in enumerate(message.content):
            wrong = isinstance(block, ToolResultBlock) != (message.role == "user")
            if wrong and not isinstance(block, TextBlock):
                name = f"messages[{place}].content[{at}]"
                faults.append(FieldError(name, "a block of this role", "is of the other role"))
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


def _user(message: Message) -> list[dict[str, Any]]:
    """Tools' answers first, then what the user says."""
    if isinstance(message.content, str):
        return [{"role": "user", "content": message.content}]
    results = [b for b in message.content if isinstance(b, ToolResultBlock)]
    texts = [{"type": "text", "text": b.text} for b in message.content if isinstance(b, TextBlock)]
    found = [
        {"role": "tool", "tool_call_id": b.tool_use_id, "content": _result(b)} for b in results
    ]
    return found + ([{"role": "user", "content": texts}] if texts else [])


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


def _text(content: str | list[TextBlock]) -> str:
    return content if isinstance(content, str) else "\n".join(block.text for block in content)
