"""Ollama's messages as the worker's own: calls get ids, and tools' answers are told which call they
answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rbee_worker.errors import MOST_FAULTS, FieldError
from rbee_worker.server.ollama.schemas import Call, Message
from rbee_worker.server.pictures import part, several


def messages_of(given: Sequence[Message], faults: list[FieldError]) -> tuple[dict[str, Any], ...]:
    """The conversation; faults are added to `faults`."""
    found: list[dict[str, Any]] = []
    waiting: list[tuple[str, str]] = []  # ids and names of calls without an answer
    for place, message in enumerate(given):
        name = f"messages[{place}]"
        told: list[FieldError] = []
        answered = _answered(message, waiting) if message.role == "tool" else None
        if message.role == "tool" and answered is None:
            text = "answers no call: no tool_calls before it are without an answer"
            told.append(FieldError(name, "the answer to a call", text))
        entry: dict[str, Any] = {"role": message.role, "content": message.content or ""}
        if message.images:
            if message.role != "user":
                text = "means nothing here: only user messages have it"
                told.append(FieldError(f"{name}.images", "of user", text))
            entry["content"] = shown(message.content, message.images, f"{name}.images", told)
        if answered is not None:
            waiting.remove(answered)
            entry |= {"tool_call_id": answered[0], "name": answered[1]}
        for key in ("thinking", "tool_calls"):
            if getattr(message, key) and message.role != "assistant":
                text = "means nothing here: only assistant messages have it"
                told.append(FieldError(f"{name}.{key}", "of assistant", text))
        if message.thinking:
            entry["reasoning_content"] = message.thinking
        if message.tool_calls:
            calls = [_call(call, f"call_{place}_{n}") for n, call in enumerate(message.tool_calls)]
            waiting += [(c["id"], c["function"]["name"]) for c in calls]
            entry |= {"tool_calls": calls, "content": message.content or None}
        found.append(entry)
        # beyond those that are listed, faults are only counted
        faults += [f if len(faults) < MOST_FAULTS else faults[-1] for f in told]
    return tuple(found)


def shown(
    text: str | None, images: Sequence[str], name: str, faults: list[FieldError]
) -> list[dict[str, Any]]:
    """A message's pictures and then its text, as parts with files."""
    parts = [part(file) for file in several(images, name, faults)]
    return [*parts, {"type": "text", "text": text}] if text else parts


def _answered(message: Message, waiting: list[tuple[str, str]]) -> tuple[str, str] | None:
    """The call that a tool's message answers: that of its id, or of its name, or the first."""
    for call in waiting:
        if message.tool_call_id is not None:
            if call[0] == message.tool_call_id:
                return call
        elif message.tool_name in (None, call[1]):
            return call
    return None


def _call(call: Call, new: str) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": call.function.arguments}
    return {"id": call.id or new, "type": "function", "function": function}
