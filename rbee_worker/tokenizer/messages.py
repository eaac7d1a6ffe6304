"""The messages of a conversation, checked and brought into the form that a chat template reads.

Most templates write a message's content as a string; some loop over its parts
(`{% for part in message.content %}`) and would find none in a string, so the text would silently
vanish. Which form a template wants is found by rendering a word that nobody writes in both forms,
once per role.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.tokenizer.call_forms import (
    CALL_ID,
    CallForm,
    Message,
    Render,
    call_faults,
    call_message,
)

SENTINEL = "Zq7Vx2"
_ROLE = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")
_ROLES = {"developer": "system"}
_KEY = re.compile(r"""['"]type['"]""")  # occurs if a part is written out as it is, not read

CALLS = "calls"  # stands for an assistant's message with a call, where roles are listed


@dataclass(frozen=True)
class Form:
    """How a template reads the content of messages of one role. shown: whether it shows it at
    all."""

    text: bool = True
    parts: bool = False
    shown: bool = True


@dataclass(frozen=True)
class Checked:
    """A message that can be rendered. content: a string, or the texts of its parts; a part that is
    a picture is None."""

    given: Mapping[str, Any]
    role: str
    content: str | tuple[str | None, ...]

    @property
    def calls(self) -> bool:
        """Whether it has tool calls."""
        return bool(self.given.get("tool_calls"))

    def formed(self, form: Form, calls: CallForm | None = None, picture: str = "") -> Message:
        """The message in the form that the template reads; a string stays a string if it can.

        If the template reads no parts, they become the lines of one string, with `picture` in the
        place of each picture. calls: how it reads tool calls, if this message has some.
        """
        content: Any = self.content
        if isinstance(content, str) and not form.text:
            content = _parts(content)
        elif not isinstance(content, str):
            lines = (picture if text is None else text for text in content)
            content = _parts(*content) if form.parts else "\n".join(lines)
        message = {**self.given, "role": self.role, "content": content}
        return message if calls is None else calls.formed(message, self.given.get("content"))


def checked(messages: Sequence[Mapping[str, Any]]) -> list[Checked]:
    """Messages with a role and text; the role `developer` becomes `system`.

    Raises InvalidRequest, which lists every message that cannot be used.
    """
    errors: list[FieldError] = []
    found: list[Checked] = []
    if not messages:
        errors.append(FieldError("messages", "length >= 1", "at least one message is needed"))
    for at, message in enumerate(messages):
        if not isinstance(message, Mapping):
            errors.append(FieldError(f"messages[{at}]", "object", "a message is an object"))
            continue
        role = message.get("role")
        if not isinstance(role, str) or not _ROLE.fullmatch(role):
            errors.append(
                FieldError(f"messages[{at}].role", "role name", "role must be a plain name")
            )
            continue
        content = _content(message.get("content"), f"messages[{at}].content", errors)
        if message.get("tool_calls"):
            errors += call_faults(f"messages[{at}].tool_calls", message["tool_calls"])
        found.append(Checked(message, _ROLES.get(role, role), content))
    if errors:
        raise InvalidRequest(errors)
    return found


def _content(value: Any, field: str, errors: list[FieldError]) -> str | tuple[str | None, ...]:
    if value is None:
        return ""  # an assistant's message may have none
    if isinstance(value, str):
        return value
    texts: list[str | None] = []
    if not isinstance(value, list | tuple):
        errors.append(FieldError(field, "string or parts", "content is a string or text parts"))
        return ""
    for at, part in enumerate(value):
        text = part.get("text") if isinstance(part, Mapping) else None
        if isinstance(text, str) and part.get("type", "text") in ("text", "input_text"):
            texts.append(text)
        elif isinstance(part, Mapping) and part.get("type") == "image":
            texts.append(None)
        else:
            message = "only parts with a text, and pictures, are supported"
            errors.append(FieldError(f"{field}[{at}]", "text part", message))
    return tuple(texts)


def find_form(role: str, render: Render) -> Form | None:
    """The form in which a template reads messages of `role`; None if it refuses them all.

    render: gives the prompt for messages, None if the template refuses them.
    """
    rendered = False
    for parts in (False, True):  # the form of the messages around it
        for conversation in _conversations(role):
            around = [_message(r, "x", parts=parts) for r in conversation]
            at = len(conversation) - 1 - conversation[::-1].index(role)
            around[at] = _message(role, SENTINEL, parts=False)
            as_text = render(around)
            around[at] = _message(role, SENTINEL, parts=True)
            as_parts = render(around)
            rendered = rendered or as_text is not None or as_parts is not None
            form = _form(as_text or "", as_parts or "")
            if form.shown:
                return form
    return Form(shown=False) if rendered else None


def _form(as_text: str, as_parts: str) -> Form:
    """The form, from a prompt with the sentinel as a string and one with it as a part."""
    text = SENTINEL.lower() in as_text.lower()
    written = len(_KEY.findall(as_parts)) > len(_KEY.findall(as_text))  # it wrote the list itself
    parts = SENTINEL.lower() in as_parts.lower() and not written
    return Form(text=text or not parts, parts=parts, shown=text or parts)


def _conversations(role: str) -> list[list[str]]:
    """Roles of short conversations in which templates accept a message of `role`."""
    if role == "user":
        return [["user"], ["system", "user"]]
    if role == "system":
        return [["system", "user"], ["system"]]
    if role == "assistant":
        return [["user", "assistant", "user"], ["user", "assistant"]]
    answers = [["user", role], ["user", "assistant", role], ["system", "user", "assistant", role]]
    return [["user", CALLS, role], *answers] if role == "tool" else answers


def _message(role: str, text: str, *, parts: bool) -> Message:
    if role == CALLS:
        return call_message()
    told = {"tool_call_id": CALL_ID, "name": "x"} if role == "tool" else {}
    return {"role": role, "content": _parts(text) if parts else text, **told}


def _parts(*texts: str | None) -> list[dict[str, str]]:
    """Parts as templates read them; None is a picture."""
    return [{"type": "image"} if text is None else {"type": "text", "text": text} for text in texts]
