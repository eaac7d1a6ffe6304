"""Command-line options made from tables: `OPTIONS` (settings) and `PARAMETERS` (sampling).

A command is an ordinary function that takes `settings` (and `sampling`). `command` adds an option
for every row of the tables, so none can be forgotten or differ from its documentation.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Collection
from typing import Annotated, Any

import typer

from rbee_worker.cli.failure import one_line
from rbee_worker.cli.sampling import collect, keyword, parameters
from rbee_worker.cli.terminal import note
from rbee_worker.config import OPTIONS, SERVE, Option, parse, unknown_variables
from rbee_worker.observe import log

EVERY = tuple(option.field for option in OPTIONS)
ALL = tuple(option.field for option in OPTIONS if option.group != SERVE)  # all but the server's
DEBUG_ENV = "RBEE_DEBUG"


def command(
    app: typer.Typer, *, fields: Collection[str] = ALL, sampling: bool = False
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a function as a command of `app`, under its own name.

    fields: the settings that get options; all others come from the environment. The function
    receives `settings: Settings`, its own parameters, and with sampling also `sampling: dict[str,
    Any]` (raw parameters, as in a request). A parameter `ref` replaces the option --model.
    """

    def register(run: Callable[..., None]) -> Callable[..., None]:
        own = inspect.signature(run, eval_str=True).parameters
        mine = [p for p in own.values() if p.name not in ("settings", "sampling")]
        rows = [
            o for o in OPTIONS if o.field in fields and not (o.field == "model" and "ref" in own)
        ]
        extra = parameters() if sampling else []
        extra += [_parameter(o) for o in rows]

        def call(**values: Any) -> None:
            with one_line(values.pop("debug")):
                given = {o.field: values.pop(o.field) for o in rows}
                if "ref" in own:
                    given["model"] = values.pop("ref")
                settings = parse(given, os.environ)
                log.setup(settings.log_level, settings.log_format)
                for text in unknown_variables(os.environ):
                    note(text)
                if "ref" in own:
                    values["ref"] = settings.model
                if sampling:
                    values["sampling"] = collect(values)
                run(settings=settings, **values)

        call.__doc__ = run.__doc__
        call.__name__ = run.__name__
        call.__signature__ = inspect.Signature([*mine, *extra, _debug()])  # type: ignore[attr-defined]
        app.command(run.__name__)(call)
        return run

    return register


def _parameter(option: Option) -> inspect.Parameter:
    """One row of `OPTIONS` as a typer parameter: text (or a switch), None if not given."""
    if option.kind is bool:
        declared = typer.Option(
            f"{option.flag}/--no-{option.flag[2:]}",
            help=_help(option, "on" if option.default else "off"),
            show_default=False,
            rich_help_panel=option.group,
        )
        return keyword(option.field, bool, declared)
    metavar = "|".join(c for c in option.choices if c not in option.later) or (
        "N" if option.kind is int else "TEXT"
    )
    declared = typer.Option(
        option.flag,
        *option.also,
        help=_help(option, option.default),
        metavar=metavar,
        show_default=False,
        rich_help_panel=option.group,
    )
    return keyword(option.field, str, declared)


def _help(option: Option, default: object) -> str:
    shown = f"default {default}, " if default != "" else ""
    return f"{option.help} ({shown}{option.env})"


def _debug() -> inspect.Parameter:
    declared = typer.Option(
        "--debug",
        envvar=DEBUG_ENV,
        help="on failure, show the traceback too",
        rich_help_panel="Log options",
    )
    return inspect.Parameter(
        "debug", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=Annotated[bool, declared]
    )
