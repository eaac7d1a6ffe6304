"""Command-line options made from tables: `OPTIONS` (settings) and `PARAMETERS` (sampling).

A command is an ordinary function that takes `settings` (and `sampling`). `command` adds an option
for every row of the tables, so none can be forgotten or differ from its documentation.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from typing import Any

import click

from rbee_worker.cli import completion
from rbee_worker.cli.failure import one_line
from rbee_worker.cli.help import Grouped
from rbee_worker.cli.sampling import collect, options
from rbee_worker.cli.terminal import note
from rbee_worker.config import OPTIONS, SERVE, Option, joined, parse, unknown_variables
from rbee_worker.observe import log
from rbee_worker.params import GROUPS, group_of

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

    for param in own:
        if param.name in ("ref", "refs"):
            param._custom_shell_complete = completion.models
    order = [*GROUPS, ""]  # second names of a parameter have no group, and are not shown
    drawn = options() if sampling else []
    drawn.sort(key=lambda param: order.index(group_of(param.name or "")))
    made = Grouped(
        run.__name__,
        callback=call,
        params=[*own, *drawn, *map(_option, rows), _debug()],
        help=run.__doc__,
    )
    made.groups = {
        **{p.name: group_of(p.name) for p in drawn if p.name},
        **{o.field: o.group for o in rows},
    }
    return made


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
        shell_complete=completion.models if option.field == "model" else _words(option),
    )


def _words(option: Option) -> Callable[..., list[str]]:
    """A completer of the option's words."""

    def words(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
        return [word for word in completion.values(option) if word.startswith(incomplete)]

    return words


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
