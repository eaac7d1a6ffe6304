"""The texts of a body: one or several, each as characters or as ids."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rbee_worker.errors import FieldError

Prompt = str | tuple[int, ...]


def prompts_of(name: str, given: Any, most: int, faults: list[FieldError]) -> list[Prompt]:
    """One prompt or up to `most`, as text or ids, of the body's field `name`; a fault in their form
    is added to `faults`."""
    if any(f.field == name or f.field.startswith((f"{name}[", f"{name}.")) for f in faults):
        return []
    if given is None:
        faults.append(FieldError(name, "required", "is required"))
        return []
    if isinstance(given, str):
        return [given]
    kinds = {type(item) for item in given}
    if len(kinds) > 1 or not given or (len(given) > most and kinds != {int}):
        message = f"must be one string, or 1..{most} strings, or ids, or lists of ids"
        faults.append(FieldError(name, "one kind", message))
        return []
    if kinds == {int}:
        return [tuple(given)]
    return [item if isinstance(item, str) else tuple(item) for item in given]


def several(given: Any) -> bool:
    """Whether the value is a list of prompts, not one prompt."""
    return isinstance(given, list) and bool(given) and not isinstance(given[0], int)


def place_of(name: str, given: Any) -> Callable[[int], str]:
    """The field of the text with a number: `input`, or `input[2]` if there are several."""
    return lambda place: f"{name}[{place}]" if several(given) else name
