"""A JSON Schema in the words that llguidance takes at their full meaning.

Counts become integers (2.0 is 2), bounds numbers that it does not round. Formats that it takes too
widely get a pattern beside them, which leaves out days that a month does not have, seconds of 60,
and host names that are too long or encode other scripts. Keywords that it does not know are written
in others, or left out where they assert nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

from rbee_worker.constraints.numbers import BOUNDS, beyond, inside
from rbee_worker.constraints.schema import (
    COUNTS,
    LISTS,
    MAPS,
    NUMBER_FORMATS,
    SINGLE,
    is_idle,
    is_number_format,
)

_WIDEST = 10**14  # bounds that exclude a whole number have a number next to it up to here
_LEAP = r"(?:[0-9]{2}(?:0[48]|[2468][048]|[13579][26])|(?:[02468][048]|[13579][26])00)"
_DATE = (
    r"(?:[0-9]{4}-(?:0[13578]|1[02])-(?:0[1-9]|[12][0-9]|3[01])"
    r"|[0-9]{4}-(?:0[469]|11)-(?:0[1-9]|[12][0-9]|30)"
    r"|[0-9]{4}-02-(?:0[1-9]|1[0-9]|2[0-8])"
    rf"|{_LEAP}-02-29)"
)
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]"
_TIME = rf"{_CLOCK}:[0-5][0-9](?:\.[0-9]+)?(?:[Zz]|[+-]{_CLOCK})"
_LABEL = "[A-Za-z0-9]+(?:-[A-Za-z0-9]+)*"  # without --, which encodes other scripts
_SHARPER: dict[str, dict[str, Any]] = {  # the format, and what it means besides
    "date": {"pattern": f"^{_DATE}$"},
    "time": {"pattern": f"^{_TIME}$"},
    "date-time": {"pattern": f"^{_DATE}[Tt]{_TIME}$"},
    "hostname": {"pattern": rf"^{_LABEL}(?:\\.{_LABEL})*$", "maxLength": 253},
}


def exact(schema: Any) -> Any:
    """The same schema, in those words. It was checked by `check_schema`."""
    if not isinstance(schema, Mapping):
        return schema
    found = {
        "additionalProperties" if key == "unevaluatedProperties" else key: _part(key, value)
        for key, value in schema.items()
        if not is_idle(key, value)
    }
    if schema.get("type") != "integer":
        _exclude(found)
    form = found.get("format")
    more: dict[str, Any] | None = None
    if is_number_format(schema):
        bounds = NUMBER_FORMATS[found.pop("format")]
        if bounds is not None:
            more = {"minimum": bounds[0], "exclusiveMaximum": bounds[1]}
    elif isinstance(form, str):
        more = _SHARPER.get(form)
    if more is not None:
        found["allOf"] = [*found.get("allOf", ()), more]
    return found


def _exclude(found: dict[str, Any]) -> None:
    """Write bounds that exclude a whole number as the numbers next to it."""
    for exclusive, name in (("exclusiveMinimum", "minimum"), ("exclusiveMaximum", "maximum")):
        up = BOUNDS[name]
        bound: Any = found.get(exclusive)
        other: Any = found.get(name, -math.inf if up else math.inf)
        if not (_is_number(bound) and _is_number(other)):
            continue
        if bound % 1 == 0 and abs(bound) < _WIDEST:
            del found[exclusive]
            bounds = (beyond(bound, up=up), other)
            found[name] = max(bounds) if up else min(bounds)


def _is_number(value: Any) -> TypeGuard[int | float]:
    return type(value) in (int, float)


def _part(key: str, value: Any) -> Any:
    if key in (*MAPS, "$defs", "definitions") and isinstance(value, Mapping):
        return {name: exact(one) for name, one in value.items()}
    if isinstance(value, list) and (key in LISTS or key == "items"):
        return [exact(one) for one in value]
    if key in SINGLE:
        return exact(value)
    if key in BOUNDS and _is_number(value):
        return inside(value, up=BOUNDS[key])
    return int(value) if key in COUNTS and isinstance(value, float) else value
