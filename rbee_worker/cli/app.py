"""The program and its commands. Imports only the command that is run, and heavy modules late."""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from collections.abc import Collection
from typing import NamedTuple

import click

import rbee_worker
from rbee_worker.cli import completion
from rbee_worker.cli.help import INTRODUCTION, list_commands
from rbee_worker.cli.options import ALL, EVERY, command
from rbee_worker.cli.terminal import error_line
from rbee_worker.errors import INTERRUPTED, UsageError

_CACHE = ("cache_dir", "log_level", "log_format")
# Settings that bench sets itself have no option: it would be accepted without effect.
_SET = ("prefix_cache", "speculate", "draft_model", "max_seqs", "generation_config")
_BENCH = tuple(f for f in ALL if f not in _SET)


class _Row(NamedTuple):
    """A command: the function of that name in the module of that name, and its options."""

    name: str
    fields: Collection[str] = ALL
    sampling: bool = False


_ROUNDING = ("exact_activations", "bf16_activations")
_WARMUP = (
    *("backend", "device", "gpu_memory", "dtype", "kv_dtype", "quantize", *_ROUNDING),
    *("deterministic", "ctx", "kv_tokens", "token_budget", "max_seqs", "block_size"),
    *("speculate", "lora_slots", "lora_rank"),
)

_ROWS = (
    _Row("generate", sampling=True),
    _Row("chat", sampling=True),
    _Row("embed"),
    _Row("speak", sampling=True),
    _Row("serve", EVERY),
    _Row("inspect"),
    _Row("bench", _BENCH),
    _Row("verify", ("backend", "dtype", *_ROUNDING, "threads", "mmproj", *_CACHE)),
    _Row("pull", _CACHE),
    _Row("models", _CACHE),
    _Row("rm", _CACHE),
    _Row("warmup", (*_WARMUP, *_CACHE)),
    _Row("completion", ()),
)


class _Program(click.Group):
    """Creates a command on first use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [row.name for row in _ROWS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        for row in _ROWS:
            if row.name == cmd_name:
                module = importlib.import_module(f"rbee_worker.cli.{row.name}")
                run = getattr(module, row.name)
                return command(run, fields=row.fields, sampling=row.sampling)
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), n=1)
            if not near:
                raise
            raise click.UsageError(f"{error.message} Did you mean {near[0]!r}?", ctx) from None

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The commands in groups."""
        list_commands(self, ctx, formatter)


@click.group(
    cls=_Program,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="An LLM inference worker: one model, one device group, jobs and streams.",
)
@click.version_option(
    rbee_worker.__version__, message="rbee-worker %(version)s", help="print the version"
)
@click.pass_context
def app(ctx: click.Context) -> None:
    """Runs before every command; without one it says what there is."""
    if ctx.invoked_subcommand is None:
        sys.stdout.write(INTRODUCTION)


def run() -> int:
    """Run the command that the command line names; returns its exit code."""
    try:
        completion.check(os.environ)
        code = app(prog_name=completion.PROGRAM, standalone_mode=False)
    except UsageError as e:
        error_line(e.line)
        code = e.exit_code
    except click.ClickException as e:
        error_line(_usage(e))
        code = 2
    except click.Abort:
        code = INTERRUPTED
    return code if isinstance(code, int) else 0


def _usage(error: click.ClickException) -> str:
    """One of click's errors (unknown option, missing argument) in the form of our own messages."""
    said = " ".join(error.format_message().split())
    return UsageError(said if said.endswith((".", "?", "?)")) else f"{said}.").line
