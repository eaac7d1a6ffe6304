"""Command-line options made from tables: `OPTIONS` (settings) and `PARAMETERS` (sampling).

A command is an ordinary function that takes `settings` (and `sampling`). `command` adds an option
for every row of the tables, so none can be forgotten or differ from its documentation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

import click

from rbee_worker.cli.failure import one_line
from rbee_worker.cli.sampling import collect, options
from rbee_worker.cli.terminal import note
from rbee_worker.config import OPTIONS, SERVE, Option, joined, parse, unknown_variables
from rbee_worker.observe import log

EVERY = tuple(option.field for option in OPTIONS)
ALL = tuple(option.field for option in OPTIONS if option.group != SERVE)  # all but the server's
DEBUG_ENV = "RBEE_DEBUG"


def command(
    run: Callable[..., None], *, fields: Collection[str] = ALL, sampling: bool = False
) -> click.Command:
    """A function as a command, under its own name.

    fields: the settings that get options; all others come from the environment. The function
    receives `settings: Settings`, the parameters of its own click decorators, and with sampling
    also `sampling: dict[str, Any]` (raw parameters, as in a request). An argument `ref` replaces
    the option --model.
    """
    own: list[click.Parameter] = list(reversed(getattr(run, "__click_params__", [])))
    has_ref = any(p.name == "ref" for p in own)
    rows = [o for o in OPTIONS if o.field in fields and not (o.field == "model" and has_ref)]

    def call(*, debug: bool, **values: Any) -> None:
        with one_line(debug):
            given = {o.field: values.pop(o.field) for o in rows}
            given |= {o.field: joined(given[o.field]) for o in rows if o.repeats}
            if has_ref:
                given["model"] = values.pop("ref")
            settings = parse(given, os.environ)
            log.setup(settings.log_level, settings.log_format)
            for text in unknown_variables(os.environ):
                note(text)
            if has_ref:
                values["ref"] = settings.model
            if sampling:
                values["sampling"] = collect(values)
            run(settings=settings, **values)

    return click.Command(
        run.__name__,
        callback=call,
        params=[*own, *(options() if sampling else ()), *map(_option, rows), _debug()],
        help=run.__doc__,
    )


def _option(option: Option) -> click.Option:
    """One row of `OPTIONS` as a click option: text (or a switch), None if not given."""
    if option.kind is bool:
        return click.Option(
            [option.field, f"{option.flag}/--no-{option.flag[2:]}"],
            help=_help(option, "on" if option.default else "off"),
            default=None,
        )
    metavar = "|".join(c for c in option.choices if c not in option.later) or (
        "N" if option.kind is int else "TEXT"
    )
    return click.Option(
        [option.field, option.flag, *option.also],
        help=_help(option, option.default),
        metavar=metavar,
        multiple=option.repeats,
    )


def _help(option: Option, default: object) -> str:
    shown = f"default {default}, " if default != "" else ""
    return f"{option.help} ({shown}{option.env})"


def _debug() -> click.Option:
    return click.Option(
        ["--debug"],
        is_flag=True,
        envvar=DEBUG_ENV,
        show_envvar=True,
        help="on failure, show the traceback too",
    )
