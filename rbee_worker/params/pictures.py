"""Checks that a request's pictures belong to its messages, and that its model takes any."""

from __future__ import annotations

from rbee_worker.errors import FieldError
from rbee_worker.params.rules import Rules
from rbee_worker.types import Request


def picture_faults(request: Request, rules: Rules) -> list[FieldError]:
    """A fault for each picture that the model does not take, or for pictures without a place."""
    files = request.pictures
    if files and not rules.pictures:
        why = f": {rules.no_pictures}" if rules.no_pictures else ""
        message = f"is a picture, and this model takes none{why}"
        return [FieldError(file.field, "text", message) for file in files]
    if request.messages is None:
        return []
    parts = sum(
        1
        for message in request.messages
        if isinstance(message.get("content"), list | tuple)
        for part in message["content"]
        if isinstance(part, dict) and part.get("type") == "image"
    )
    if parts == len(files):
        return []
    message = f"has {parts} parts of the type image, and {len(files)} pictures were given"
    return [FieldError("messages", "a picture for each part", message)]
