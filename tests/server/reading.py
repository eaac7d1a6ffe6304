"""Reading event streams in tests, by a parser that shares no code with the client package."""

from __future__ import annotations

import json
from typing import Any

DONE = "[DONE]"


def frames(text: str) -> list[tuple[int | None, Any]]:
    """(id, data) of every frame; data is parsed JSON, or "[DONE]". Comments are left out."""
    found: list[tuple[int | None, Any]] = []
    for block in text.split("\n\n"):
        number, data = None, None
        for line in block.splitlines():
            if line.startswith("id: "):
                number = int(line[4:])
            elif line.startswith("data: "):
                data = line[6:]
        if data is not None:
            found.append((number, data if data == DONE else json.loads(data)))
    return found


def events(text: str) -> list[Any]:
    """The data of every frame, in order."""
    return [data for _, data in frames(text)]
