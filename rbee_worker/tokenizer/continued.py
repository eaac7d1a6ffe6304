"""A conversation whose last message is left open, so that the model continues it.

The rule is that of transformers' `continue_final_message`: the template renders the message as if
it were complete, and everything after its content is cut off.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rbee_worker.errors import FieldError, InvalidRequest

_MARK = "\ue000 the answer goes on here \ue001"  # private-use characters, which no text has
_SPACE = " "  # after the mark: shows whether the template trims the content


class Renderer(Protocol):
    """A chat template (`chat.ChatRenderer`)."""

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        **template_args: Any,
    ) -> str: ...


def continued(
    chat: Renderer,
    messages: Sequence[Mapping[str, Any]],
    args: Mapping[str, Any],
    tools: Sequence[Mapping[str, Any]] | None = None,
) -> str:
    """The prompt for `messages` up to the end of the last one's content, trimmed if the template
    trims. Raises InvalidRequest if the template leaves that content out."""
    *before, last = messages
    marked = {**last, "content": _marked(last.get("content"))}
    text = chat.render([*before, marked], add_generation_prompt=False, tools=tools, **args)
    end = text.rfind(_MARK)
    if end < 0:
        message = "the chat template leaves the last message's text out: it cannot be continued"
        fault = FieldError("continue_final_message", "a last message that is rendered", message)
        raise InvalidRequest([fault])
    kept = text[:end]
    return kept if text.startswith(_MARK + _SPACE, end) else kept.rstrip()


def _marked(content: Any) -> Any:
    """`content` with the mark at its end; for parts, at the end of the last part."""
    if isinstance(content, list | tuple) and content:
        *parts, last = content
        return [*parts, {**last, "text": f"{last.get('text', '')}{_MARK}{_SPACE}"}]
    return f"{content or ''}{_MARK}{_SPACE}"
