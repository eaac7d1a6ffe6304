"""The sampling parameters as options of a command, and as words after `/set`."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import click

from rbee_worker import params


def options() -> list[click.Parameter]:
    """One option for every name that a parameter has; other names than the first are hidden."""
    found: list[click.Parameter] = []
    for option in params.options():
        for n, flag in enumerate(option.flags):
            spelled = f"{flag}/--no-{flag[2:]}" if option.switch else flag
            also = f" (also {', '.join(option.flags[1:])})" if option.flags[1:] else ""
            declared = click.Option(
                [_name(flag), spelled],
                help=option.help + also,
                metavar=option.metavar or None,
                default=None,
                multiple=option.repeated,
                hidden=n > 0,
            )
            found.append(declared)
    return found


def collect(values: MutableMapping[str, Any]) -> dict[str, Any]:
    """Takes the sampling options out of `values`: name -> value as a request carries it.

    Options that were not given are absent. Raises UsageError for text that is no such value; ranges
    are checked later, when the model is known.
    """
    raw: dict[str, Any] = {}
    for option in params.options():
        for flag in option.flags:
            given = values.pop(_name(flag))
            if isinstance(given, bool):
                raw[_name(flag)] = given
            elif given:
                text = list(given) if option.repeated else given
                raw[_name(flag)] = params.from_text(_name(flag), text)
    return raw


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")
