"""Checks one value against one row of the table: strict about types, one message per field.

JSON's types are not converted: true is not an integer, "1" is not a number, and NaN and infinity
are not numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rbee_worker.errors import FieldError
from rbee_worker.params.parameter import MAX_BIASES, MAX_STOP_LENGTH, MAX_STOPS, Parameter, plain

_SHOWN = 64  # characters of a value that an error may quote


def check(parameter: Parameter, key: str, value: Any, *, vocab_size: int, context: int) -> Any:
    """The value in the form of SamplingParams, or a FieldError (returned, not raised).

    key: the name that the caller used. value: not None.
    """
    if any(same(value, off) for off in parameter.off):
        return parameter.default
    match parameter.kind:
        case "integer" | "number":
            return _number(parameter, key, value, context)
        case "boolean":
            return value if isinstance(value, bool) else _wrong(parameter, key, value)
        case "strings":
            return _strings(parameter, key, value)
        case "ids":
            return _ids(parameter, key, value, vocab_size)
        case "biases":
            return _biases(parameter, key, value, vocab_size)
    raise AssertionError(parameter.kind)


def same(value: Any, other: Any) -> bool:
    """Whether two JSON values are equal; true is not 1 (but 1.0 is)."""
    if isinstance(value, bool) or isinstance(other, bool):
        return value is other
    return type(value) in (type(other), int, float) and bool(value == other)


def shown(value: Any) -> Any:
    """The part of a value that an error may quote: numbers and short strings, never a prompt."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, int):
        return value if abs(value) < 1 << 64 else "a huge integer"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str) and len(value) <= _SHOWN:
        return value
    return None


def _wrong(parameter: Parameter, key: str, value: Any, message: str = "") -> FieldError:
    wanted = {"integer": "an integer", "number": "a number", "boolean": "true or false"}
    text = message or f"must be {wanted.get(parameter.kind, parameter.range)}"
    if not message:
        text += f", not {_json_type(value)}"
    return FieldError(key, parameter.range, text, shown(value))


def _json_type(value: Any) -> str:
    match value:
        case bool():
            return "a boolean"
        case int() | float():
            return "a number" if math.isfinite(value) else str(value)
        case str():
            return "a string"
        case list() | tuple():
            return "an array"
        case Mapping():
            return "an object"
    return type(value).__name__


def _number(parameter: Parameter, key: str, value: Any, context: int) -> Any:
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if parameter.kind == "integer" and numeric and not isinstance(value, int):
        return _wrong(parameter, key, value, "must be an integer, without a decimal point")
    if not numeric or (isinstance(value, float) and not math.isfinite(value)):
        return _wrong(parameter, key, value)
    low, high = parameter.low, parameter.high
    if low is not None and (value < low or (parameter.above and value == low)):
        bound = f"greater than {plain(low)}" if parameter.above else f"at least {plain(low)}"
        return _wrong(parameter, key, value, f"must be {bound}")
    if high is not None and value > high:
        return _wrong(parameter, key, value, f"must be at most {plain(high)}")
    if parameter.name in ("max_tokens", "min_tokens") and value > context:
        return _wrong(parameter, key, value, f"must be at most the context of {context} tokens")
    if parameter.kind == "integer":
        return value
    return float(value) + 0.0  # -0.0 becomes 0.0


def _strings(parameter: Parameter, key: str, value: Any) -> Any:
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        return _wrong(parameter, key, value)
    if len(items) > MAX_STOPS:
        return _wrong(parameter, key, None, f"must be at most {MAX_STOPS} strings")
    if not all(isinstance(item, str) for item in items):
        return _wrong(parameter, key, None, "every entry must be a string")
    for item in items:
        if not 1 <= len(item) <= MAX_STOP_LENGTH:
            text = f"every string must have 1 to {MAX_STOP_LENGTH} characters"
            return _wrong(parameter, key, None, f"{text}, one has {len(item)}")
        if any(0xD800 <= ord(c) <= 0xDFFF for c in item):
            return _wrong(parameter, key, None, "a string has half of a surrogate pair")
    return tuple(items)


def _ids(parameter: Parameter, key: str, value: Any, vocab_size: int) -> Any:
    if not isinstance(value, list | tuple):
        return _wrong(parameter, key, value)
    if len(value) > MAX_STOPS:
        return _wrong(parameter, key, None, f"must be at most {MAX_STOPS} ids")
    if not all(type(item) is int for item in value):
        return _wrong(parameter, key, None, "every entry must be an integer")
    for item in value:
        if not 0 <= item < vocab_size:
            return _outside(parameter, key, item, vocab_size)
    return tuple(value)


def _biases(parameter: Parameter, key: str, value: Any, vocab_size: int) -> Any:
    if not isinstance(value, Mapping):
        return _wrong(parameter, key, value)
    if len(value) > MAX_BIASES:
        return _wrong(parameter, key, None, f"must be at most {MAX_BIASES} token ids")
    biases: dict[int, float] = {}
    assert parameter.low is not None
    assert parameter.high is not None
    for name, bias in value.items():
        token = _token(name)
        if token is None:
            text = "every key must be a token id in decimal digits"
            return _wrong(parameter, key, name if isinstance(name, int) else None, text)
        if not 0 <= token < vocab_size:
            return _outside(parameter, key, token, vocab_size)
        if isinstance(bias, bool) or not isinstance(bias, int | float):
            text = f"the bias of token {token} must be a number, not {_json_type(bias)}"
            return _wrong(parameter, key, bias, text)
        if not parameter.low <= bias <= parameter.high:  # also refuses NaN
            text = f"the bias of token {token} must lie in {parameter.range.partition('in ')[2]}"
            return _wrong(parameter, key, bias, text)
        biases[token] = float(bias)
    return biases


def _token(name: Any) -> int | None:
    """A JSON object's key as a token id. "007" and " 7" are refused, so no id can occur twice."""
    if type(name) is int:
        return name
    if isinstance(name, str) and name.isascii() and name.isdigit() and len(name) < 19:
        return int(name) if str(int(name)) == name else None
    return None


def _outside(parameter: Parameter, key: str, token: int, vocab_size: int) -> FieldError:
    text = f"token id {shown(token)} is outside the vocabulary of {vocab_size}"
    return FieldError(key, f"ids 0 to {vocab_size - 1}", text, shown(token))
