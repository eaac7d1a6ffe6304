"""Reads a request body: from bytes to checked fields, with every fault found before any is
reported.

A body has two kinds of keys. The *envelope* (prompt, model, stream, ...) is described by one struct
per route and checked here. Every other key is a sampling parameter and is passed to `params` as it
is. A fault about a prompt never contains its value.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from rbee_worker.errors import MOST_FAULTS, FieldError, InvalidRequest
from rbee_worker.params import MOST_GUESSES, nearest
from rbee_worker.params.repeated import repeated
from rbee_worker.server.auth import too_large
from rbee_worker.server.json_shape import Shape
from rbee_worker.server.openai.schemas import NESTED as OPENAI_NESTED
from rbee_worker.server.pictures import from_url
from rbee_worker.server.pictures import part as picture_part
from rbee_worker.server.problems import Refusal
from rbee_worker.server.schemas import BY_ROLE, ECHOED, ImagePart, Message, TextPart
from rbee_worker.server.struct_fields import struct_fields
from rbee_worker.server.vector_schemas import NESTED as VECTOR_NESTED

if TYPE_CHECKING:
    from rbee_worker.server.worker import Worker

SMALL = 1 << 16  # bytes; a smaller body is decoded without a look at its shape
BODY_S = 60.0  # seconds within which a body must be complete

_NESTED = OPENAI_NESTED | VECTOR_NESTED

E = TypeVar("E", bound=msgspec.Struct)


@dataclass(frozen=True)
class Body:
    """A request's JSON object, and what is wrong with the object itself."""

    values: dict[str, Any]
    faults: list[FieldError]


async def read_object(request: HttpRequest, worker: Worker) -> Body:
    """The JSON object in the request's body. Raises Refusal (400, 408, 413)."""
    try:
        raw = await asyncio.wait_for(_read(request, worker.settings.max_body_kb * 1024), BODY_S)
    except TimeoutError:
        raise Refusal(
            408,
            "body_too_slow",
            f"The body was not complete after {BODY_S:.0f} s.",
            fix="send faster.",
        ) from None
    except ClientDisconnect:
        raise Refusal(
            400,
            "client_left",
            "The client left before its body was complete.",
            fix="send all of it.",
        ) from None
    if len(raw) > SMALL:
        await _measure(raw, worker.model.context if worker.model is not None else 0)
    try:
        value = msgspec.json.decode(raw)
        if len(raw) > SMALL:
            await asyncio.sleep(0)
        twice = repeated(raw, MOST_FAULTS)
        if len(raw) > SMALL:
            await asyncio.sleep(0)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise Refusal(400, "invalid_json", _not_json(error), fix="send one JSON object.") from None
    if not isinstance(value, dict):
        raise Refusal(
            400, "invalid_json", "The body is JSON but not an object.", fix="send one JSON object."
        )
    return Body(value, [FieldError(n[:64], "once", "is given more than once") for n in twice])


async def refuse_body(request: HttpRequest) -> None:
    """For a route without a body: refuse anything but an empty one or `{}`."""
    try:
        raw = await asyncio.wait_for(_read(request, SMALL), BODY_S)
    except (TimeoutError, ClientDisconnect, Refusal):
        raw = b"something"
    if raw.strip() not in (b"", b"{}"):
        message = "This route takes no body: nothing would read it."
        raise Refusal(400, "unread_body", message, fix="leave the body out.")


def _not_json(error: Exception) -> str:
    """Why the body cannot be read, without quoting it."""
    if isinstance(error, RecursionError):
        return "The body is nested too deeply."
    if isinstance(error, msgspec.ValidationError):
        return "The body has a number that is too large for JSON readers."
    return "The body is not valid JSON."


async def _measure(raw: bytes, context: int) -> None:
    """Refuse a body that would take long to decode. More values are allowed if the context, and
    thus a prompt of ids, is longer."""
    shape = Shape()
    for start in range(0, len(raw), SMALL):
        shape.feed(raw[start : start + SMALL])
        if excess := shape.excess(context):
            raise Refusal(
                413, "body_too_complex", f"The body has {excess}.", fix="send several requests."
            )
        await asyncio.sleep(0)


async def _read(request: HttpRequest, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise too_large(max_bytes)
        parts.append(part)
    return b"".join(parts)


def envelope(body: Body, kind: type[E]) -> tuple[E, dict[str, Any], list[FieldError]]:
    """Split `body` into (its envelope, the other keys, faults). null means absent.

    A field with a fault keeps its default in the envelope, so that checking can continue.
    """
    faults = list(body.faults)
    values: dict[str, Any] = {}
    fields = {f.encode_name: f for f in struct_fields(kind)}
    for name, field in fields.items():
        given = body.values.get(name)
        if given is None:
            if field.required:
                faults.append(FieldError(name, "required", "is required"))
                values[field.name] = None
            continue
        try:
            values[field.name] = msgspec.convert(given, field.type)
        except msgspec.ValidationError as error:
            faults.append(fault_of(name, error))
            if field.required:
                values[field.name] = None
    rest = {k: v for k, v in body.values.items() if k not in fields}
    return kind(**values), rest, faults


def fault_of(name: str, error: msgspec.ValidationError) -> FieldError:
    """msgspec's error without the value: "Expected `str`, got `int` - at `$[0].content`" becomes a
    fault of the field messages[0].content."""
    text, _, where = str(error).partition(" - at `$")
    field = name + where.rstrip("`")
    if text.startswith(("Invalid enum value", "Invalid value")):
        return FieldError(field, "one of the allowed", "is not one of the allowed values")
    unknown = re.fullmatch(r"Object contains unknown field `(.*)`", text, re.DOTALL)
    if unknown is not None:
        known = [f for kind in _NESTED.get(name, ()) for f in kind.__struct_fields__]
        hint = nearest(unknown[1], known)
        return FieldError(f"{field}.{unknown[1][:64]}", "a known field", f"is not known here{hint}")
    return FieldError(field, "type", (text[:1].lower() + text[1:])[:200])


def unknown_faults(rest: Iterable[str], kind: type[msgspec.Struct]) -> list[FieldError]:
    """A fault for every key that a route with the envelope `kind` does not know. Faults beyond
    those that a refusal lists are only counted."""
    names = list(rest)
    faults = []
    for place, name in enumerate(names[:MOST_FAULTS]):
        hint = nearest(name, kind.__struct_fields__) if place < MOST_GUESSES else ""
        faults.append(FieldError(name[:64], "a known field", f"is not known here{hint}"))
    return faults + faults[-1:] * (len(names) - MOST_FAULTS)


def refuse(faults: list[FieldError]) -> None:
    """Raise InvalidRequest if there are faults."""
    if faults:
        raise InvalidRequest(faults)


def plain_messages(
    messages: list[Message],
) -> tuple[tuple[dict[str, Any], ...], list[FieldError]]:
    """The messages as the chat template reads them, but for the files of pictures (`taken`), and a
    fault for each field that asks for something not implemented. `developer` means system; parts
    stay parts."""
    faults: list[FieldError] = []
    plain: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        name = f"messages[{place}]"
        found = _message_faults(message, name)
        content: Any = message.content
        if isinstance(content, list):
            content = _parts(content, message.role, name, found)
        # beyond those that are listed, faults are only counted
        faults += [fault if len(faults) < MOST_FAULTS else faults[-1] for fault in found]
        role = "system" if message.role == "developer" else message.role
        entry: dict[str, Any] = {"role": role, "content": content}
        if message.name is not None:
            entry["name"] = message.name
        if message.tool_calls:
            entry["tool_calls"] = [
                {"id": c.id, "type": c.type, "function": msgspec.to_builtins(c.function)}
                for c in message.tool_calls
            ]
        if message.tool_call_id is not None:
            entry["tool_call_id"] = message.tool_call_id
        reasoning = message.reasoning_content or message.reasoning
        if reasoning:
            entry["reasoning_content"] = reasoning
        plain.append(entry)
    return tuple(plain), faults


def _parts(
    content: list[TextPart | ImagePart], role: str, name: str, faults: list[FieldError]
) -> list[dict[str, Any]]:
    """The parts of a message's content."""
    parts = []
    for at, one in enumerate(content):
        if isinstance(one, TextPart):
            parts.append({"type": "text", "text": one.text})
            continue
        where, url = f"{name}.content[{at}]", one.image_url
        if role != "user":
            faults.append(FieldError(where, "of user", "is a picture: only user messages have it"))
        parts.append(picture_part(from_url(url.url, where, faults, detail=url.detail)))
    return parts


def _message_faults(message: Message, name: str) -> list[FieldError]:
    """The faults of one message's fields. Null and empty values ask for nothing."""
    faults = [
        FieldError(f"{name}.{key}", "null or empty", "is not implemented")
        for key in ECHOED
        if getattr(message, key)
    ]
    for key, role in BY_ROLE.items():
        if getattr(message, key) and message.role != role:
            faults.append(
                FieldError(
                    f"{name}.{key}",
                    f"of {role}",
                    f"means nothing here: only {role} messages have it",
                )
            )
    if message.role == "tool" and message.tool_call_id is None:
        wanted = "the id of the call that this message answers"
        faults.append(FieldError(f"{name}.tool_call_id", "required", f"is required: {wanted}"))
    return faults
