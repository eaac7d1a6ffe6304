"""Names that a JSON text gives twice: a reader keeps the last one and drops the others silently."""

from __future__ import annotations

import json
from typing import Any


def repeated(raw: bytes | str, most: int = 1) -> list[str]:
    """Names that occur twice in one object of a valid JSON text; at most `most` of them."""
    found: dict[str, None] = {}

    def look(pairs: list[tuple[str, Any]]) -> None:
        if len(dict(pairs)) < len(pairs) and len(found) < most:
            seen: set[str] = set()
            for name, _ in pairs:
                if name in seen:
                    found[name] = None
                seen.add(name)

    json.loads(raw, object_pairs_hook=look)
    return list(found)[:most]
