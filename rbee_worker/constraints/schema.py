"""Which JSON Schemas answers can be held to: every keyword and its place, before any compiling.

A keyword that llguidance does not enforce, or not in the way of the specification, is a fault, and
so is one that no draft has: it may be a misspelt one. Annotations (`title`, `x-...`) assert
nothing. Only what can be reached from the root is looked at: an unused definition may have
anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import unquote

from rbee_worker.constraints.numbers import kept
from rbee_worker.constraints.unheld import Unheld

MOST_PLACES = 20_000  # subschemas of one schema
MOST_DEPTH = 100  # of subschemas in one another

_HELD = {
    *("anyOf", "oneOf", "allOf", "$ref", "const", "enum", "type"),
    *("items", "additionalItems", "prefixItems", "minItems", "maxItems"),
    *("properties", "additionalProperties", "patternProperties", "required"),
    *("minProperties", "maxProperties", "minLength", "maxLength", "pattern", "format"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"),
}
# Keywords that assert nothing: of the specification, of OpenAPI, and of the editors and generators
# that schemas are written for.
_ANNOTATIONS = {
    *("$anchor", "$defs", "definitions", "$schema", "$id", "id", "$comment", "$vocabulary"),
    *("title", "description", "default", "readOnly", "writeOnly", "deprecated", "examples"),
    *("contentMediaType", "contentEncoding", "contentSchema"),
    *("example", "discriminator", "externalDocs", "xml"),
    *("markdownDescription", "enumDescriptions", "markdownEnumDescriptions", "defaultSnippets"),
    *("errorMessage", "patternErrorMessage", "deprecationMessage", "doNotSuggest"),
    *("suggestSortText", "allowComments", "allowTrailingCommas", "tsType", "existingJavaType"),
}
_FORMATS = {  # those that llguidance enforces
    *("date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"),
}
# Values of keywords that are not held which assert nothing.
IDLE: dict[str, Any] = {
    "uniqueItems": False,
    "unevaluatedProperties": True,
    "unevaluatedItems": True,
    "propertyNames": True,
    "not": False,
    "nullable": False,
    "dependencies": {},
    "dependentRequired": {},
    "dependentSchemas": {},
}
# Formats of numbers: the least, and what is too large. Those without bounds say how to store one.
NUMBER_FORMATS: dict[str, tuple[int, int] | None] = {
    "int8": (-(1 << 7), 1 << 7),
    "int16": (-(1 << 15), 1 << 15),
    "int32": (-(1 << 31), 1 << 31),
    "int64": (-(10**18), 10**18),  # llguidance's ranges do not reach 2^63
    "uint8": (0, 1 << 8),
    "uint16": (0, 1 << 16),
    "uint32": (0, 1 << 32),
    "uint64": (0, 10**18),
    "float": None,
    "double": None,
}
_TYPES = {"null", "boolean", "object", "array", "number", "string", "integer"}
MAPS = ("properties", "patternProperties")
LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
SINGLE = ("additionalProperties", "items", "additionalItems", "unevaluatedProperties")
COUNTS = ("minItems", "maxItems", "minProperties", "maxProperties", "minLength", "maxLength")
_WRITTEN = ("const", "enum", "multipleOf")  # keywords whose numbers answers have
_NO_LETTER = re.compile(r"[\x00-\x07\x0b\x0e-\x1f\x7f]")  # characters that need \uXXXX in JSON


def check_schema(schema: Any) -> None:
    """Raise Unheld for the first keyword that answers cannot be held to."""
    opened = has_open_names(schema)
    for pointer, place in places(schema):
        _check(schema, pointer, place)
        if isinstance(place, Mapping):
            _check_values(pointer, place, opened=opened)


def has_open_names(schema: Any) -> bool:
    """Whether a name that is not declared may stand beside one that is, or that has a pattern.

    Then a declared name must not be written with \\uXXXX, under which the library takes it for
    another one: no text of the answer is written so.
    """
    return any(
        isinstance(place, Mapping)
        and bool(place.get("properties") or place.get("patternProperties"))
        and place.get("additionalProperties") is not False
        and not (place.get("unevaluatedProperties") is False and only_own(place))
        for _, place in places(schema)
    )


def places(schema: Any) -> Iterator[tuple[str, Any]]:
    """Every subschema that can be reached, the root first, with its JSON pointer.

    Raises Unheld for what is no schema, for references that lead nowhere, and for too many.
    """
    todo: list[tuple[str, Any, int]] = [("", schema, 0)]
    seen: set[str] = set()
    while todo:
        pointer, place, depth = todo.pop()
        if pointer in seen:
            continue
        seen.add(pointer)
        if len(seen) > MOST_PLACES or depth > MOST_DEPTH:
            limit = f"{MOST_PLACES} subschemas, {MOST_DEPTH} in one another"
            raise Unheld(f"the schema is too large: at most {limit}", pointer)
        if not isinstance(place, Mapping | bool):
            raise Unheld("must be a schema: an object, true or false", pointer)
        yield pointer, place
        if isinstance(place, Mapping):
            inner = list(_inside(schema, pointer, place))
            todo += [(where, one, depth + 1) for where, one in reversed(inner)]


def _inside(root: Any, pointer: str, place: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The subschemas of one, and what it refers to."""
    for key, value in place.items():
        at = f"{pointer}/{escaped(key)}"
        if key in MAPS:
            for name, one in _typed(value, Mapping, "an object", at).items():
                yield f"{at}/{escaped(name)}", one
        elif key in LISTS or (key == "items" and isinstance(value, list)):
            for number, one in enumerate(_typed(value, list, "an array", at)):
                yield f"{at}/{number}", one
        elif key in SINGLE:
            yield at, value
        elif key == "$ref":
            yield _target(root, value, at)


def _typed(value: Any, kind: Any, name: str, pointer: str) -> Any:
    if not isinstance(value, kind):
        raise Unheld(f"must be {name}", pointer)
    return value


def _target(root: Any, reference: Any, pointer: str) -> tuple[str, Any]:
    """What a reference leads to: its pointer from the root, and the schema there."""
    if not isinstance(reference, str) or not (reference == "#" or reference.startswith("#/")):
        raise Unheld("refers to what is not in this schema by a pointer (#/...)", pointer)
    value = root
    for step in reference.split("/")[1:]:
        name = unquote(step).replace("~1", "/").replace("~0", "~")
        if isinstance(value, Mapping) and name in value:
            value = value[name]
        elif isinstance(value, list) and name.isdigit() and int(name) < len(value):
            value = value[int(name)]
        else:
            raise Unheld(f"refers to {reference[:80]!r}, which is not there", pointer)
    return reference[1:], value


def is_idle(key: str, value: Any) -> bool:
    """Whether a keyword that is not held asserts nothing with this value."""
    return key in IDLE and type(value) is type(IDLE[key]) and value == IDLE[key]


def only_own(place: Mapping[str, Any]) -> bool:
    """Whether nothing but the schema's own keywords evaluates properties: what they leave is then
    what is additional."""
    others = ("$ref", "allOf", "anyOf", "oneOf", "additionalProperties")
    return not any(key in place for key in others)


def is_number_format(place: Mapping[str, Any]) -> bool:
    """Whether `format` is that of a number, in a schema of numbers."""
    kinds = place.get("type")
    names = {kinds} if isinstance(kinds, str) else set(kinds) if isinstance(kinds, list) else set()
    form = place.get("format")
    if not (isinstance(form, str) and form in NUMBER_FORMATS):
        return False
    return bool(names) and names <= {"integer", "number", "null"}


def escaped(name: str) -> str:
    """A name as a part of a JSON pointer."""
    return name.replace("~", "~0").replace("/", "~1")


def _check(root: Any, pointer: str, place: Any) -> None:
    if not isinstance(place, Mapping):
        return
    for key, value in place.items():
        at = f"{pointer}/{escaped(key)}"
        if key in ("$id", "id") and pointer and isinstance(value, str):
            raise Unheld("a base of its own inside a schema is not supported", at)
        if key in _ANNOTATIONS or key in _HELD or (key.startswith("x-") and key != "x-guidance"):
            continue
        if is_idle(key, value) or (key == "unevaluatedProperties" and only_own(place)):
            continue
        hint = "; say so with type" if key == "nullable" else ""
        raise Unheld(f"the keyword {key[:64]!r} cannot be held{hint}", at)
    kind = place.get("type")
    for name in [kind] if isinstance(kind, str) else kind if isinstance(kind, list) else []:
        if name not in _TYPES:
            raise Unheld(f"there is no type {str(name)[:64]!r}", f"{pointer}/type")
    _check_numbers(pointer, place)
    form = place.get("format")
    if form is not None and form not in _FORMATS and not is_number_format(place):
        known = ", ".join(sorted(_FORMATS))
        raise Unheld(
            f"the format {str(form)[:64]!r} cannot be held; known: {known}", pointer + "/format"
        )


def _check_values(pointer: str, place: Mapping[str, Any], *, opened: bool) -> None:
    """Raise Unheld for values that cannot be written as they are. opened: see `has_open_names`."""
    for key in _WRITTEN:
        todo = [place[key]] if key in place else []
        while todo:
            value = todo.pop()
            if isinstance(value, Mapping):
                todo += [*value.values(), *value]
            elif isinstance(value, list):
                todo += value
            elif type(value) in (int, float) and not kept(value):
                message = f"{value!r:.40} is not held exactly: at most 15 digits, or 2^53"
                raise Unheld(message, f"{pointer}/{key}")
            elif opened and isinstance(value, str) and _NO_LETTER.search(value):
                message = (
                    "a control character cannot be written in a schema that lets undeclared names "
                    "stand beside others: add additionalProperties: false"
                )
                raise Unheld(message, f"{pointer}/{key}")


def _check_numbers(pointer: str, place: Mapping[str, Any]) -> None:
    for key in COUNTS:
        count = place.get(key, 0)
        whole = type(count) in (int, float) and count >= 0 and count % 1 == 0
        if not whole:
            raise Unheld("must be a whole number >= 0", f"{pointer}/{key}")
    required = place.get("required")
    if required is not None and (
        not isinstance(required, list) or not all(isinstance(one, str) for one in required)
    ):
        raise Unheld("must be an array of strings", f"{pointer}/required")
    # Names that are not declared may come twice, and then count once.
    sure = max(1, len(set(required or ())))
    if place.get("minProperties", 0) > sure:
        message = f"at most {sure} can be held here: 1, or as many as are required"
        raise Unheld(message, f"{pointer}/minProperties")
