"""Help, the first page, and completion: they name what there is."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from rbee_worker.cli.app import app
from rbee_worker.cli.completion import SHELLS
from rbee_worker.cli.help import COMMANDS, EXAMPLES, INTRODUCTION
from rbee_worker.config import OPTIONS
from rbee_worker.params import GROUPS

ROOT = Path(__file__).parents[2]


def run(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environ = {n: v for n, v in os.environ.items() if not n.startswith("RBEE_")} | variables
    command = [sys.executable, "-m", "rbee_worker", *words]
    return subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)


def commands() -> dict[str, click.Command]:
    assert isinstance(app, click.Group)
    context = click.Context(app)
    found = {name: app.get_command(context, name) for name in app.list_commands(context)}
    return {name: command for name, command in found.items() if command is not None}


def shown(command: click.Command) -> str:
    return command.get_help(click.Context(command, info_name=f"rbee-worker {command.name}"))


def test_the_program_alone_says_what_it_is_and_five_commands() -> None:
    done = run()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == INTRODUCTION
    named = [line.split()[1] for line in INTRODUCTION.splitlines() if line.startswith("  rbee")]
    assert len(named) == 5
    assert set(named) <= commands().keys()
    assert max(map(len, INTRODUCTION.splitlines())) <= 100


def test_every_command_is_in_one_group_and_has_examples() -> None:
    grouped = [name for names in COMMANDS.values() for name in names]
    assert sorted(grouped) == sorted(commands())
    assert EXAMPLES.keys() == commands().keys()
    listed = app.get_help(click.Context(app, info_name="rbee-worker"))
    assert [title for title in COMMANDS if f"\n{title}:\n" not in listed] == []
    assert "..." not in listed.partition("Options:")[2], (
        "a command's first sentence fits into its line"
    )


@pytest.mark.parametrize("name", [name for names in COMMANDS.values() for name in names])
def test_examples_are_shown_and_can_be_parsed(name: str) -> None:
    command = commands()[name]
    text = shown(command)
    for line in EXAMPLES[name]:
        assert f"  {line}\n" in text + "\n"
        words = shlex.split(line.replace('"$(', "").replace(')"', ""), comments=True)
        own = words[words.index("rbee-worker") + 1 :]
        own = own[: own.index(">")] if ">" in own else own
        assert own[0] == name
        command.make_parser(click.Context(command)).parse_args(own[1:])


def test_options_stand_under_headings() -> None:
    text = shown(commands()["generate"])
    headings = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
    drawn = [f"{group}:" for group in GROUPS if f"\n{group}:\n" in text]
    assert [h for h in headings if h in drawn] == drawn
    assert len(drawn) == 6
    assert {f"{option.group}:" for option in OPTIONS if option.group != "Server options"} <= {
        *headings
    }
    at = text.index("\nSampling:\n")
    assert "--temperature" in text[at : text.index("\n\n", at + 1)]
    assert "default: 128; in a conversation the rest of the context" in " ".join(text.split())


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_prints_a_script_that_calls_the_program(shell: str) -> None:
    done = run("completion", shell)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"_RBEE_WORKER_COMPLETE={shell}_complete" in done.stdout


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("rbee-worker ge", "generate"),
        ("rbee-worker generate --backend c", "cpu"),
        ("rbee-worker generate --temp", "--temperature"),
        ("rbee-worker inspect smo", "smollm2"),
        ("rbee-worker rm gem", "gemma3-270m"),
        ("rbee-worker completion z", "zsh"),
    ],
)
def test_a_shell_is_told_what_fits(line: str, wanted: str) -> None:
    count = str(len(line.split()) - 1)
    asked = {"COMP_WORDS": line, "COMP_CWORD": count, "_RBEE_WORKER_COMPLETE": "bash_complete"}
    done = run(**asked)
    assert done.stderr == ""
    assert f"plain,{wanted}" in done.stdout.splitlines()


@pytest.mark.parametrize("asked", ["nonsense", "bash_nonsense", "tcsh_source"])
def test_a_shell_that_asks_for_something_else_is_told(asked: str) -> None:
    """click ends the program with 1 and without a word."""
    done = run("models", _RBEE_WORKER_COMPLETE=asked)
    assert done.returncode == 2
    assert done.stderr.startswith("error: the environment variable _RBEE_WORKER_COMPLETE: ")
    assert done.stdout == ""
