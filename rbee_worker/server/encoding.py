"""JSON of long answers, encoded so that none of them blocks the event loop.

Encoding is one C call that nothing interrupts: a few milliseconds for a screenful, half a second
for the log-probabilities of a long answer. Long lists are encoded slice by slice, and a long answer
as a whole in a thread, where the interpreter can run other threads between the slices.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from msgspec import UNSET, Struct
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from rbee_worker.server.problems import json_response
from rbee_worker.server.struct_fields import struct_fields

LONG = 1024  # tokens, or items of their size, up to which no thread is used
SLICE = 256  # items of a list in one call
PART = 1 << 20  # bytes of a long answer that are written in one go
_ENCODE = msgspec.json.Encoder().encode


def pieces(value: Any) -> Iterator[bytes]:
    """The JSON of `value`, in pieces that are each made quickly.

    Structs and lists are split; anything else is one piece (this includes callers' dicts, whose
    size is limited when they are read).
    """
    if isinstance(value, Struct) and not value.__struct_config__.array_like:
        yield from _struct(value)
    elif isinstance(value, list | tuple) and len(value) > SLICE:
        for start in range(0, len(value), SLICE):
            part = _ENCODE(value[start : start + SLICE])
            yield (b"[" if start == 0 else b",") + part[1:-1]
        yield b"]"
    elif isinstance(value, list | tuple):
        yield b"["
        for place, item in enumerate(value):
            if place:
                yield b","
            yield from pieces(item)
        yield b"]"
    else:
        yield _ENCODE(value)


def _struct(value: Struct) -> Iterator[bytes]:
    """A struct member by member, in msgspec's form: tag first, defaults left out if the struct says
    so."""
    config = value.__struct_config__
    mark = b"{"
    if config.tag is not None:
        yield b"{%b:%b" % (_ENCODE(config.tag_field), _ENCODE(config.tag))
        mark = b","
    for field in struct_fields(type(value)):
        item = getattr(value, field.name)
        if item is UNSET or (config.omit_defaults and _is_default(field, item)):
            continue
        yield b"%b%b:" % (mark, _ENCODE(field.encode_name))
        yield from pieces(item)
        mark = b","
    yield b"{}" if mark == b"{" else b"}"


def _is_default(field: msgspec.structs.FieldInfo, item: Any) -> bool:
    if field.default is not msgspec.NODEFAULT:
        return item is field.default or (
            type(item) is type(field.default) and item == field.default
        )
    made = field.default_factory
    return made in (list, dict, set) and type(item) is made and not item


def encoded(value: Any) -> bytes:
    """The JSON of a long `value`."""
    return b"".join(pieces(value))


async def answered(
    make: Callable[[], Any],
    size: int,
    headers: dict[str, str] | None = None,
    *,
    quick: bool = True,
) -> Response:
    """The answer that `make` builds, of about `size` tokens.

    quick: False if `make` may take long however short the answer is.
    """
    if quick and size <= LONG:
        return json_response(make(), headers=headers)
    body = await asyncio.to_thread(lambda: encoded(make()))
    return LongResponse(body, headers=headers, media_type="application/json")


class LongResponse(Response):
    """A body that is handed over in parts: what the socket does not take at once is copied."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code}
        await send({**start, "headers": self.raw_headers})
        whole = memoryview(self.body)
        for at in range(0, len(whole), PART):
            part = bytes(whole[at : at + PART])
            await send({"type": "http.response.body", "body": part, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})
