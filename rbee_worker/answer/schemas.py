"""What a reader must know of a tool: its parameters in order, and which of them are strings."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_MOST = 100_000  # characters of a value that Python's own reader is given


@dataclass(frozen=True)
class Tool:
    """parameters: name -> JSON types that its schema allows, () for any."""

    parameters: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def is_text(self, key: str) -> bool:
        """Whether the parameter can be nothing but a string."""
        return self.parameters.get(key) == ("string",)

    def name_of(self, place: int) -> str:
        """The name of the parameter at a place, for an argument without a name."""
        names = [*self.parameters]
        return names[place] if place < len(names) else f"argument{place + 1}"

    def value(self, key: str, text: str) -> str:
        """A value that the model wrote without JSON's quotes, as JSON."""
        kinds = self.parameters.get(key, ())
        if kinds == ("string",):
            return written(text)
        bare = text.strip()
        for read in (_of_json, _of_python, _of_lines):
            try:
                return read(bare)
            except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                continue
        return written(text)


def tool_table(tools: Iterable[Mapping[str, Any]]) -> dict[str, Tool]:
    """The tools of a request by name."""
    found = {}
    for tool in tools:
        function = tool["function"]
        schema = function.get("parameters") or {}
        properties = schema.get("properties") if isinstance(schema, Mapping) else None
        known = properties if isinstance(properties, Mapping) else {}
        found[function["name"]] = Tool({key: _types(value) for key, value in known.items()})
    return found


def written(value: Any) -> str:
    """A value as JSON, without escapes for letters."""
    return json.dumps(value, ensure_ascii=False)


def _types(schema: Any) -> tuple[str, ...]:
    kind = schema.get("type") if isinstance(schema, Mapping) else None
    if isinstance(kind, str):
        return (kind,)
    if isinstance(kind, list):
        return tuple(k for k in kind if isinstance(k, str))
    if isinstance(schema, Mapping) and isinstance(schema.get("enum"), list):
        return ("string",) if all(isinstance(v, str) for v in schema["enum"]) else ()
    return ()


def _of_json(text: str) -> str:
    """JSON as it is. Raises ValueError and others for text that is none."""
    json.loads(text, parse_constant=_refuse)
    return text


def _of_python(text: str) -> str:
    """A Python literal as JSON. Raises ValueError and others for what has no JSON."""
    if len(text) > _MOST:
        raise ValueError("too long")
    return json.dumps(ast.literal_eval(text), ensure_ascii=False, allow_nan=False)


def _of_lines(text: str) -> str:
    """A Python string whose line breaks are not escaped, as some models write them (LFM2)."""
    return _of_python(text.replace("\r", "\\r").replace("\n", "\\n"))


def _refuse(constant: str) -> None:
    raise ValueError(constant)
