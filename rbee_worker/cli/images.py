"""Pictures in a conversation of the command line: parts with data URLs, as `/save` and the page
write them, and requests with files."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

from rbee_worker.errors import FieldError, InvalidRequest
from rbee_worker.pictures.files import picture_file
from rbee_worker.pictures.header import NotRead, look
from rbee_worker.server.pictures import from_url, part, taken
from rbee_worker.types import PictureFile

Messages = tuple[dict[str, Any], ...]


def image_part(path: str, most: int) -> dict[str, Any]:
    """The picture of a path as a part of a message. Raises UsageError, InvalidRequest."""
    file = picture_file(path, path, most)
    return _part(file)


def _part(file: PictureFile) -> dict[str, Any]:
    try:
        kind = look(file.data).kind.lower()
    except NotRead as error:
        raise InvalidRequest([FieldError(file.field, "a picture", str(error))]) from None
    url = f"data:image/{kind};base64,{base64.b64encode(file.data).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}


def with_files(messages: Sequence[dict[str, Any]]) -> tuple[Messages, tuple[PictureFile, ...]]:
    """A conversation as a request has it. Raises InvalidRequest for a URL that has no picture."""
    faults: list[FieldError] = []
    found = []
    for place, message in enumerate(messages):
        content = message["content"]
        if isinstance(content, list):
            content = [
                part(from_url(p["image_url"]["url"], f"messages[{place}].content[{n}]", faults))
                if p["type"] == "image_url"
                else p
                for n, p in enumerate(content)
            ]
        found.append({**message, "content": content})
    if faults:
        raise InvalidRequest(faults)
    return taken(found)


def with_urls(messages: Sequence[dict[str, Any]], files: Sequence[PictureFile]) -> Messages:
    """A request's conversation with its pictures as data URLs, for a worker elsewhere."""
    left = iter(files)
    return tuple(
        {
            **message,
            "content": [
                _part(next(left)) if p["type"] == "image" else p for p in message["content"]
            ],
        }
        if isinstance(message["content"], list)
        else message
        for message in messages
    )
