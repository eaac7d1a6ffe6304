"""The sampling parameters as command-line options, and as words after `/set`."""

from __future__ import annotations

import inspect
from collections.abc import MutableMapping
from typing import Annotated, Any

import typer

from rbee_worker import params

_GROUP = "Sampling"


def parameters() -> list[inspect.Parameter]:
    """One option per name of a parameter; only its first name is shown in --help."""
    found = []
    for option in params.options():
        for n, flag in enumerate(option.flags):
            spelled = f"{flag}/--no-{flag[2:]}" if option.switch else flag
            also = f" (also {', '.join(option.flags[1:])})" if option.flags[1:] else ""
            declared = typer.Option(
                spelled,
                help=option.help + also,
                metavar=option.metavar or None,
                show_default=False,
                hidden=n > 0,
                rich_help_panel=_GROUP,
            )
            kind: Any = bool if option.switch else list[str] if option.repeated else str
            found.append(keyword(_name(flag), kind, declared))
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
                raw[_name(flag)] = params.from_text(_name(flag), given)
    return raw


def _name(flag: str) -> str:
    return flag.removeprefix("--").replace("-", "_")


def keyword(name: str, kind: Any, declared: Any) -> inspect.Parameter:
    """A parameter that is None unless given."""
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind | None, declared],
    )
