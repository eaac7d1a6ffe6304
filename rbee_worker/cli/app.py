"""The program and its commands. Heavy imports happen only inside the commands that need them."""

from __future__ import annotations

from typing import Annotated

import typer

import rbee_worker
from rbee_worker.cli.bench import FIELDS as BENCH
from rbee_worker.cli.bench import bench
from rbee_worker.cli.chat import chat
from rbee_worker.cli.generate import generate
from rbee_worker.cli.inspect import inspect
from rbee_worker.cli.models import models
from rbee_worker.cli.options import EVERY, command
from rbee_worker.cli.pull import pull
from rbee_worker.cli.serve import serve
from rbee_worker.cli.terminal import error_line
from rbee_worker.cli.verify import verify
from rbee_worker.cli.warmup import warmup
from rbee_worker.errors import INTERRUPTED, UsageError

_CACHE = ("cache_dir", "log_level", "log_format")
_WARMUP = ("backend", "kv_dtype", "exact_activations", "block_size", *_CACHE)

app = typer.Typer(
    name="rbee-worker",
    help="An LLM inference worker: one model, one device group, jobs and streams.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
command(app, sampling=True)(generate)
command(app, sampling=True)(chat)
command(app, fields=EVERY)(serve)
command(app)(inspect)
command(app, fields=BENCH)(bench)
command(app, fields=("backend", "dtype", "exact_activations", "threads", *_CACHE))(verify)
command(app, fields=_CACHE)(pull)
command(app, fields=_CACHE)(models)
command(app, fields=_WARMUP)(warmup)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"rbee-worker {rbee_worker.__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """An LLM inference worker: one model, one device group, jobs and streams."""


def run() -> int:
    """Run the command that the command line names; returns its exit code."""
    try:
        code = app(prog_name="rbee-worker", standalone_mode=False)
    except typer.TyperException as e:
        error_line(_usage(e))
        code = 2
    except typer.Abort:
        code = INTERRUPTED
    return code if isinstance(code, int) else 0


def _usage(error: typer.TyperException) -> str:
    """One of typer's errors (unknown option, missing argument) in the form of our own messages."""
    return UsageError(error.format_message().rstrip(".") + ".").line
