"""Reading a request body: bytes to checked fields, with every fault found before any is told.

A body has two kinds of keys. The *envelope* (prompt, model, stream, ...) is described by a struct
for each route and checked here; every other key is a sampling parameter and goes to `params`
unread. Values never occur in a fault about prompts.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.server.auth import too_large
from rbee_worker.server.problems import Refusal
from rbee_worker.server.schemas import Message

BODY_S = 60.0  # a body must be whole after so long

E = TypeVar("E", bound=msgspec.Struct)


async def read_object(request: HttpRequest, max_bytes: int) -> dict[str, Any]:
    """The JSON object in the request's body. Raises Refusal (400, 408, 413)."""
    try:
        raw = await asyncio.wait_for(_read(request, max_bytes), BODY_S)
    except TimeoutError:
        raise Refusal(
            408, "body_too_slow", f"The body was not whole after {BODY_S:.0f} s."
        ) from None
    except ClientDisconnect:
        raise Refusal(400, "client_left", "The client left before its body was whole.") from None
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Refusal(400, "invalid_json", "The body is not valid JSON.") from None
    if not isinstance(value, dict):
        raise Refusal(400, "invalid_json", "The body must be a JSON object.")
    return value


async def _read(request: HttpRequest, max_bytes: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > max_bytes:
            raise too_large(max_bytes)
        parts.append(part)
    return b"".join(parts)


def envelope(body: dict[str, Any], kind: type[E]) -> tuple[E, dict[str, Any], list[FieldError]]:
    """`body` as (its envelope, the other keys, faults). null means absent.

    A field with a fault keeps its default in the envelope, so that checking can go on.
    """
    faults: list[FieldError] = []
    values: dict[str, Any] = {}
    fields = {f.encode_name: f for f in msgspec.structs.fields(kind)}
    for name, field in fields.items():
        if body.get(name) is None:
            if field.required:
                faults.append(FieldError(name, "required", "is required"))
                values[field.name] = None
            continue
        try:
            values[field.name] = msgspec.convert(body[name], field.type)
        except msgspec.ValidationError as error:
            faults.append(_fault(name, error))
            if field.required:
                values[field.name] = None
    rest = {k: v for k, v in body.items() if k not in fields}
    return kind(**values), rest, faults


def _fault(name: str, error: msgspec.ValidationError) -> FieldError:
    """msgspec's words without the value: "Expected `str`, got `int` - at `$[0].content`"."""
    text = str(error)
    if text.startswith("Invalid enum value"):
        where = text.partition(" - at ")[2]
        text = "is not one of the allowed values" + (f" - at {where}" if where else "")
    return FieldError(name, "type", (text[:1].lower() + text[1:])[:200])


def refuse(faults: list[FieldError]) -> None:
    """Raise InvalidRequest if there is any fault."""
    if faults:
        raise InvalidRequest(faults)


def plain_messages(
    messages: list[Message],
) -> tuple[tuple[dict[str, Any], ...], list[FieldError]]:
    """Messages as the chat template reads them, and the fields in them that ask for what is not
    implemented. `developer` means system; text parts stay parts, which the renderer joins."""
    faults: list[FieldError] = []
    plain: list[dict[str, Any]] = []
    for place, message in enumerate(messages):
        for key in ("tool_calls", "function_call", "audio", "tool_call_id"):
            if getattr(message, key) not in (None, [], {}):
                name = f"messages[{place}].{key}"
                faults.append(FieldError(name, "not implemented", "is not implemented"))
        content: Any = message.content
        if isinstance(content, list):
            content = [msgspec.structs.asdict(part) for part in content]
        role = "system" if message.role == "developer" else message.role
        entry: dict[str, Any] = {"role": role, "content": content}
        if message.name is not None:
            entry["name"] = message.name
        plain.append(entry)
    return tuple(plain), faults
