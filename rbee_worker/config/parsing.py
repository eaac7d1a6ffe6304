"""Settings from the command line's and the environment's texts, each checked by its option."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rbee_worker.adapter_spec import SEPARATOR
from rbee_worker.config.option import Option
from rbee_worker.config.settings import Settings
from rbee_worker.config.table import OPTIONS
from rbee_worker.errors import UsageError

_TRUE = ("1", "true", "yes", "on")
_FALSE = ("0", "false", "no", "off")
_LONGEST_NAME = 512  # characters of a model's name in requests


def parse(given: Mapping[str, str | bool | None], environ: Mapping[str, str]) -> Settings:
    """Settings from the command line's values (None = not given) and the environment.

    An environment variable that is set but empty counts as not set. Raises UsageError.
    """
    values: dict[str, Any] = {}
    for option in OPTIONS:
        from_line = given.get(option.field)
        if from_line is not None:
            values[option.field] = _value(option, from_line, f"{option.flag} {from_line}")
        elif text := environ.get(option.env, ""):
            values[option.field] = _value(option, text, f"{option.env}={text}")
    return Settings(**values)


def joined(given: Sequence[str]) -> str | None:
    """The values of a flag that may be repeated, as one text; None if there are none."""
    return SEPARATOR.join(given) or None


def _value(option: Option, text: str | bool, where: str) -> Any:
    """`text` as a value of the option's kind, checked; where: how the user wrote it."""
    if isinstance(text, bool):
        return text
    if option.kind is bool:
        return _switch(text, where)
    if option.kind in (int, float):
        return _number(option, text, where)
    if option.field == "served_model_name":
        return _names(text, where)
    if option.choices and text not in option.choices:
        raise UsageError(f"{where}: not known.", fix=f"one of {', '.join(_usable(option))}.")
    if option.check is not None:
        option.check(text)
    if text in option.later:
        raise UsageError(f"{where}: not available.", fix=f"{option.later[text]}.")
    return text


def _usable(option: Option) -> list[str]:
    return [c for c in option.choices if c not in option.later]


def _switch(text: str, where: str) -> bool:
    if text.lower() in _TRUE + _FALSE:
        return text.lower() in _TRUE
    raise UsageError(f"{where}: neither yes nor no.", fix="1, true, yes, on, 0, false, no or off.")


def _names(text: str, where: str) -> str:
    """Names separated by commas: each once, none empty, none too long for a request's `model`."""
    names = [name.strip() for name in text.split(",")] if text.strip() else []
    bad = next((n for n in names if not 1 <= len(n) <= _LONGEST_NAME or names.count(n) > 1), None)
    if bad is not None:
        what = "is given twice" if names.count(bad) > 1 and bad else "is empty or too long"
        fix = f"names of 1 to {_LONGEST_NAME} characters, each once, separated by commas."
        raise UsageError(f"{where}: a name {what}.", fix=fix)
    return ",".join(names)


def _number(option: Option, text: str, where: str) -> int | float:
    try:
        number: int | float = option.kind(text)
    except ValueError:
        wanted = "whole number" if option.kind is int else "number"
        raise UsageError(f"{where}: not a {wanted}.", fix=f"{_range(option)}.") from None
    assert option.low is not None
    assert option.high is not None
    if not option.low <= number <= option.high or (option.above and number == option.low):
        raise UsageError(f"{where}: out of range.", fix=f"{_range(option)}.")
    return number


def _range(option: Option) -> str:
    if option.low == option.high:
        return f"{option.flag} {option.low} is the only value that this version supports"
    least = f"more than {option.low}, up" if option.above else f"{option.low}"
    return f"{option.flag} takes {least} to {option.high}"
