"""The sampling parameters as command-line options, and as words after `/set`."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

import click

from rbee_worker import params


def options() -> list[click.Parameter]:
    """One option per name of a parameter; --help shows only its first name."""
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
    """Remove the sampling options from `values`; returns name -> value as in a request.

    Options that were not given are absent. Raises UsageError for text that is not a value of the
    right type; ranges are checked later, when the model is known.
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
