"""Tools for a model whose chat template knows none: described in a system message, in the form that
Hermes models were trained on (github.com/NousResearch/Hermes-Function-Calling).

Calls and the answers of tools in the history become plain text too, because such a template would
leave them out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

Message = dict[str, Any]

_HEAD = """You may call functions to help with the user's request. These are their signatures, \
as JSON between <tools></tools>:
<tools>
"""
_TAIL = """
</tools>
To call a function, write a JSON object with its name and arguments between \
<tool_call></tool_call>:
<tool_call>
{"name": "function name", "arguments": {"argument name": "value"}}
</tool_call>"""


def in_words(
    messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> tuple[Message, ...]:
    """The conversation without the role `tool` and without tool calls; the tools, if there are any,
    are described in its system message."""
    told = [_told(message) for message in messages]
    if tools:
        lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
        described = f"{_HEAD}{lines}{_TAIL}"
        if told and told[0].get("role") in ("system", "developer"):
            own = _text(told[0].get("content"))
            told[0] = {**told[0], "content": f"{own}\n\n{described}" if own else described}
        else:
            told.insert(0, {"role": "system", "content": described})
    return tuple(_joined(told))


def _told(message: Message) -> Message:
    """A message with its calls, or a tool's answer, in its text."""
    if message.get("role") == "tool":
        answer = f"<tool_response>\n{_text(message.get('content'))}\n</tool_response>"
        return {"role": "user", "content": answer}
    calls = message.get("tool_calls")
    if not calls:
        return message
    text = _text(message.get("content"))
    lines = [text] if text else []
    for call in calls:
        function = call["function"]
        arguments = function.get("arguments", "{}")
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        name = json.dumps(function["name"], ensure_ascii=False)
        body = f'{{"name": {name}, "arguments": {arguments or "{}"}}}'
        lines.append(f"<tool_call>\n{body}\n</tool_call>")
    kept = {k: v for k, v in message.items() if k != "tool_calls"}
    return {**kept, "content": "\n".join(lines)}


def _joined(messages: Sequence[Message]) -> list[Message]:
    """The answers of several tools as one message: some templates want roles to alternate."""
    joined: list[Message] = []
    for message in messages:
        last = joined[-1] if joined else {}
        if _answers(message) and _answers(last):
            joined[-1] = {**last, "content": f"{last['content']}\n{message['content']}"}
        else:
            joined.append(message)
    return joined


def _answers(message: Message) -> bool:
    content = message.get("content")
    return (
        message.get("role") == "user"
        and isinstance(content, str)
        and content.startswith("<tool_response>")
    )


def _text(content: Any) -> str:
    """A message's content as one string."""
    if isinstance(content, list | tuple):
        return "\n".join(str(part.get("text", "")) for part in content)
    return str(content or "")
