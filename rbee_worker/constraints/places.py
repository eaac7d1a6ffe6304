"""Parts of a JSON Schema on their own, to find the one that a compiler's fault is about."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from msgspec.json import decode, encode

from rbee_worker.constraints.schema import escaped, places
from rbee_worker.types import Constraint

MOST_TRIED = 200  # parts of a schema, and keywords of a part

Part = tuple[str, Constraint]  # its JSON pointer, and the part with the definitions of the whole


def candidates(text: str) -> list[Part]:
    """Every part of a schema that can be reached, smaller ones before those that contain them."""
    root = decode(text)
    shared = {}
    if isinstance(root, Mapping):
        shared = {key: root[key] for key in ("$schema", "$defs", "definitions") if key in root}
    found = [(pointer, place) for pointer, place in places(root) if isinstance(place, Mapping)]
    # what a part refers to is tried before it
    found.sort(key=lambda part: ("$ref" in part[1], -part[0].count("/")))
    return [(pointer, _alone(place, shared)) for pointer, place in found[:MOST_TRIED]]


def without(pointer: str, part: Constraint) -> list[Part]:
    """A part without each one of its keywords, with the keyword's pointer."""
    schema: dict[str, Any] = decode(part.text)
    kept = [key for key in schema if key not in ("$schema", "$defs", "definitions")]
    kept.sort(key=lambda key: key == "type")  # without it other types satisfy the part
    return [
        (f"{pointer}/{escaped(key)}", _alone({k: v for k, v in schema.items() if k != key}, {}))
        for key in kept[:MOST_TRIED]
    ]


def _alone(place: Mapping[str, Any], shared: Mapping[str, Any]) -> Constraint:
    return Constraint(kind="json_schema", text=encode({**shared, **place}).decode())
