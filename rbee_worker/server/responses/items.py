"""Items of a conversation as the messages that a chat template reads.

An item is checked when it comes in; its content never stands in a fault. Neighbouring items of the
assistant (reasoning, a message, function calls) are one turn of it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct, field

from rbee_worker.errors import MOST_FAULTS, FieldError
from rbee_worker.server.body import fault_of
from rbee_worker.server.pictures import from_url, part
from rbee_worker.types import Detail

Lookup = Callable[[str], dict[str, Any] | None]  # an item that is kept, by its id
_OPAQUE = "rbee1."  # marks reasoning that was given as encrypted_content


class _Item(Struct, kw_only=True, forbid_unknown_fields=True):
    id: str | None = None
    status: Literal["in_progress", "completed", "incomplete"] | None = None


class Message(_Item, kw_only=True):
    """What somebody says. phase: OpenAI's, without effect."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[Any]
    phase: str | None = None


class Call(_Item, kw_only=True):
    """A function call of an earlier answer."""

    type: Literal["function_call"]
    call_id: str
    name: str
    arguments: str
    namespace: None = None
    caller: None = None
    background: None = field(default=None, name="async")


class CallOutput(_Item, kw_only=True):
    """What a function gave back."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | list[Any]
    name: str | None = None
    caller: None = None


class Thought(_Item, kw_only=True):
    """Reasoning of an earlier answer."""

    type: Literal["reasoning"]
    summary: list[Any] = field(default_factory=list)
    content: list[Any] | None = None
    encrypted_content: str | None = None


class Reference(_Item, kw_only=True):
    """An item of a response that is kept here."""

    type: Literal["item_reference"] = "item_reference"


class Part(Struct, kw_only=True, forbid_unknown_fields=True):
    """A piece of text, whoever's."""

    type: Literal["input_text", "output_text", "text", "reasoning_text", "summary_text"]
    text: str
    annotations: Any = None  # of an earlier answer; without effect
    logprobs: Any = None
    parsed: Any = None  # of OpenAI's client
    prompt_cache_breakpoint: Any = None


class Picture(Struct, kw_only=True, forbid_unknown_fields=True):
    """A picture of the user's: a data URL. file_id: refused, because no files are kept here."""

    type: Literal["input_image"]
    image_url: str | None = None
    file_id: None = None
    detail: Detail = "auto"


KINDS: dict[str, type[Message | Call | CallOutput | Thought | Reference]] = {
    "message": Message,
    "function_call": Call,
    "function_call_output": CallOutput,
    "reasoning": Thought,
    "item_reference": Reference,
}
_TEXTS = ("input_text", "output_text", "text", "reasoning_text", "summary_text")


def messages_of(
    given: str | Sequence[Any], lookup: Lookup, faults: list[FieldError]
) -> list[dict[str, Any]]:
    """The messages that the items of `input` are; faults are added to `faults`."""
    if isinstance(given, str):
        return [{"role": "user", "content": given}]
    turns: list[dict[str, Any]] = []
    for place, item in enumerate(given):
        found: list[FieldError] = []
        _add(turns, item, f"input[{place}]", lookup, found)
        # beyond those that are listed, faults are only counted
        faults += [f if len(faults) < MOST_FAULTS else faults[-1] for f in found]
    return turns


def turns_of(items: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages that the items of an answer are."""
    turns: list[dict[str, Any]] = []
    for item in items:
        _add(turns, item, "", lambda _: None, [])
    return turns


def hidden(reasoning: str) -> str:
    """Reasoning as `encrypted_content`."""
    return _OPAQUE + base64.b64encode(reasoning.encode()).decode()


def _add(
    turns: list[dict[str, Any]], item: Any, name: str, lookup: Lookup, faults: list[FieldError]
) -> None:
    kind = _kind(item, name, faults)
    if kind is None:
        return
    try:
        found = msgspec.convert(item, kind)
    except msgspec.ValidationError as error:
        faults.append(fault_of(name, error))
        return
    if isinstance(found, Reference):
        known = lookup(found.id or "")
        if known is None:
            message = "is not the id of an item that is kept here"
            faults.append(FieldError(f"{name}.id", "a kept item's id", message))
        else:
            _add(turns, known, name, lookup, faults)
    elif isinstance(found, Message):
        _say(turns, found, name, faults)
    elif isinstance(found, Thought):
        turn = _assistant(turns, lambda t: t["content"] is None and "tool_calls" not in t)
        text = _reasoning(found, name, faults)
        before = turn.get("reasoning_content")
        turn["reasoning_content"] = text if before is None else f"{before}\n{text}"
    elif isinstance(found, Call):
        function = {"name": found.name, "arguments": found.arguments}
        call = {"id": found.call_id, "type": "function", "function": function}
        _assistant(turns, lambda _: True).setdefault("tool_calls", []).append(call)
    else:
        text = _text(found.output, f"{name}.output", faults)
        turns.append({"role": "tool", "tool_call_id": found.call_id, "content": text})


def _kind(
    item: Any, name: str, faults: list[FieldError]
) -> type[Message | Call | CallOutput | Thought | Reference] | None:
    if not isinstance(item, dict):
        faults.append(FieldError(name, "an item", "must be an object"))
        return None
    named = item.get("type")
    if named is None:
        named = "message" if "role" in item else "item_reference"
    if isinstance(named, str) and named in KINDS:
        return KINDS[named]
    message = f"is not implemented; known: {', '.join(KINDS)}"
    faults.append(FieldError(f"{name}.type", "a known type", message))
    return None


def _say(turns: list[dict[str, Any]], said: Message, name: str, faults: list[FieldError]) -> None:
    shows = said.role == "user"
    content = _content(said.content, f"{name}.content", faults, shows=shows)
    if said.role == "assistant":
        turn = _assistant(turns, lambda t: t["content"] is None and "tool_calls" not in t)
        turn["content"] = content
    else:
        role = "system" if said.role == "developer" else said.role
        turns.append({"role": role, "content": content})


def _assistant(
    turns: list[dict[str, Any]], open_to_it: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """The assistant's turn that the next item belongs to: the last one, or else a new one."""
    if not turns or turns[-1]["role"] != "assistant" or not open_to_it(turns[-1]):
        turns.append({"role": "assistant", "content": None})
    return turns[-1]


def _content(given: str | list[Any], name: str, faults: list[FieldError], *, shows: bool) -> Any:
    """A text, or its parts as a template reads them. shows: whether there may be pictures."""
    if isinstance(given, str):
        return given
    parts: list[dict[str, Any]] = []
    for place, one in enumerate(given):
        where = f"{name}[{place}]"
        if shows and isinstance(one, dict) and one.get("type") == "input_image":
            parts += _picture(one, where, faults)
        elif (text := _piece(one, where, faults)) is not None:
            parts.append({"type": "text", "text": text})
    if len(parts) == 1 and parts[0]["type"] == "text":
        return parts[0]["text"]
    return parts


def _picture(given: dict[str, Any], name: str, faults: list[FieldError]) -> list[dict[str, Any]]:
    try:
        found = msgspec.convert(given, Picture)
    except msgspec.ValidationError as error:
        faults.append(fault_of(name, error))
        return []
    if found.image_url is None:
        faults.append(FieldError(f"{name}.image_url", "required", "is required: a data URL"))
        return []
    return [part(from_url(found.image_url, name, faults, detail=found.detail))]


def _text(given: str | list[Any], name: str, faults: list[FieldError]) -> str:
    return given if isinstance(given, str) else "\n".join(_texts(given, name, faults))


def _reasoning(found: Thought, name: str, faults: list[FieldError]) -> str:
    if found.content:
        return "\n".join(_texts(found.content, f"{name}.content", faults))
    sealed = found.encrypted_content or ""
    if sealed.startswith(_OPAQUE):
        try:
            return base64.b64decode(sealed.removeprefix(_OPAQUE), validate=True).decode()
        except (binascii.Error, UnicodeDecodeError):
            sealed = "damaged"
    if sealed:
        message = "was not made by this worker, or is damaged"
        faults.append(FieldError(f"{name}.encrypted_content", "this worker's", message))
    return "\n".join(_texts(found.summary, f"{name}.summary", faults))


def _texts(parts: list[Any], name: str, faults: list[FieldError]) -> list[str]:
    found = (_piece(one, f"{name}[{place}]", faults) for place, one in enumerate(parts))
    return [text for text in found if text is not None]


def _piece(given: Any, name: str, faults: list[FieldError]) -> str | None:
    """The text of a part; None if it has none, which is added to `faults`."""
    kind = given.get("type") if isinstance(given, dict) else None
    if kind not in _TEXTS:
        message = "is not implemented: only texts are read, and pictures of a user's message"
        faults.append(FieldError(f"{name}.type", "a text", message))
        return None
    try:
        return msgspec.convert(given, Part).text
    except msgspec.ValidationError as error:
        faults.append(fault_of(name, error))
        return None
