"""`rbee-worker completion`: what makes a shell complete commands, options, their values and models.

The shell asks the program itself: it runs it with the variable `_RBEE_WORKER_COMPLETE`.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

import click
from click.shell_completion import CompletionItem, get_completion_class

from rbee_worker.config import Option, Settings
from rbee_worker.errors import UsageError, WorkerError

SHELLS = ("bash", "zsh", "fish")
VARIABLE = "_RBEE_WORKER_COMPLETE"
PROGRAM = "rbee-worker"


@click.argument("shell", type=click.Choice(SHELLS), help="the shell that will read the script")
def completion(settings: Settings, shell: str) -> None:
    """Print a script that makes a shell complete commands."""
    found = get_completion_class(shell)
    assert found is not None
    script = found(click.Command(PROGRAM), {}, PROGRAM, VARIABLE).source()
    sys.stdout.write(script if script.endswith("\n") else script + "\n")


def check(environ: Mapping[str, str]) -> None:
    """Raises UsageError if the shell's variable asks for something that there is not: click would
    end the program without a word."""
    asked = environ.get(VARIABLE, "")
    known = [f"{shell}_{what}" for shell in SHELLS for what in ("source", "complete")]
    if asked and asked not in known:
        raise UsageError(
            f"the environment variable {VARIABLE}: not known.",
            fix=f"unset it; shells give {known[0]}, {known[1]} and so on",
        )


def values(option: Option) -> list[str]:
    """The words that an option takes."""
    return [word for word in option.choices if word not in option.later]


def models(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """The models in the cache, the aliases and, for a path, files."""
    from rbee_worker.checkpoint import refs

    if incomplete.startswith((".", "/", "~")):
        return [CompletionItem(incomplete, type="file")]
    try:
        cached = [model.ref for model in refs.list_models(str(ctx.params.get("cache_dir") or ""))]
    except (OSError, WorkerError):
        cached = []
    names = dict.fromkeys([*refs.ALIASES, *cached])
    found = [CompletionItem(name) for name in names if name.startswith(incomplete)]
    return found or [CompletionItem(incomplete, type="file")]
