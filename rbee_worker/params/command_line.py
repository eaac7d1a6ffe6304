"""The table on a command line: one option per sampling parameter, and text to values and back.

This module does not know the command-line library: `options` says what to build, `from_text` parses
it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from rbee_worker.errors import UsageError
from rbee_worker.params.parameter import Parameter
from rbee_worker.params.resolve import similar
from rbee_worker.params.table import names

_BOOLEANS = {"true": True, "on": True, "yes": True, "false": False, "off": False, "no": False}


class Option(NamedTuple):
    """One parameter as a command-line option."""

    flags: tuple[str, ...]  # "--repetition-penalty", "--repeat-penalty"
    parameter: Parameter
    repeated: bool  # may be given several times: stop strings, ids, biases
    switch: bool  # --flag / --no-flag
    metavar: str
    help: str


_METAVARS = {"integer": "N", "number": "X", "strings": "TEXT", "ids": "ID", "biases": "ID=X"}


def options() -> list[Option]:
    """One option for every sampling parameter of `generate`, in the table's order."""
    found: dict[str, Option] = {}
    for parameter in names("generate").values():
        if parameter.role != "sampling" or parameter.name in found:
            continue
        keys = (parameter.name, *parameter.aliases)
        default = parameter.default
        about = parameter.meaning if parameter.kind == "boolean" else _about(parameter)
        if default not in (None, (), {}) and parameter.kind != "boolean":
            chat = "" if parameter.chat is None else f"; in a conversation {parameter.chat}"
            about += f" [default: {default}{chat}]"
        found[parameter.name] = Option(
            flags=tuple("--" + key.replace("_", "-") for key in keys),
            parameter=parameter,
            repeated=parameter.kind in ("strings", "ids", "biases"),
            switch=parameter.kind == "boolean",
            metavar=_METAVARS.get(parameter.kind, ""),
            help=about,
        )
    return list(found.values())


def _about(parameter: Parameter) -> str:
    return f"{parameter.meaning}; {parameter.range}" if parameter.range else parameter.meaning


def from_text(name: str, texts: str | Sequence[str]) -> Any:
    """The JSON value that a command-line text stands for; `resolve` then checks its range.

    "none" and "default" mean None, which takes the default. Raises UsageError for an unknown name
    or for text that is not a value of the parameter's kind.
    """
    parameter = names("generate").get(name.replace("-", "_"))
    if parameter is None or parameter.role != "sampling":
        known = [option.parameter.name for option in options()]
        near = similar(name.replace("-", "_"), known)
        fix = f"write {near}." if near else f"use one of: {', '.join(known)}"
        raise UsageError(f"There is no parameter {name!r}.", fix=fix)
    items = [texts] if isinstance(texts, str) else list(texts)
    silent = len(items) == 1 and items[0].lower() in ("none", "default")
    if silent and parameter.kind != "strings":  # "none" is a stop string like any other
        return None
    try:
        return _value(parameter, items)
    except ValueError:
        wanted = parameter.range or parameter.kind
        raise UsageError(
            f"{parameter.name} cannot be {' '.join(items)!r}.",
            fix=f"give {parameter.kind}: {wanted}",
        ) from None


def _value(parameter: Parameter, items: list[str]) -> Any:
    match parameter.kind:
        case "strings":
            return items
        case "ids":
            return [int(part) for item in items for part in item.split(",")]
        case "biases":
            pairs = [part.split("=") for item in items for part in item.split(",")]
            return {str(int(token)): float(bias) for token, bias in pairs}
    [text] = items
    match parameter.kind:
        case "integer":
            return int(text)
        case "number":
            return float(text)
        case "boolean" if text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
    raise ValueError(text)
