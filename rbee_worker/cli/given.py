"""The text that a command is given: its argument, or stdin."""

from __future__ import annotations

import sys

from rbee_worker.errors import UsageError


def given_text(argument: str | None, what: str, example: str) -> str:
    """The argument; or stdin, for `-` and for a pipe without an argument. what: its name; example:
    a command that has one. Raises UsageError for none, an empty one, and what is not UTF-8."""
    if argument is None and sys.stdin.isatty():
        raise UsageError(f"no {what}.", fix=f"{example}, or - for stdin.")
    text = argument
    if text in (None, "-"):
        try:
            text = sys.stdin.read()
        except UnicodeDecodeError as error:
            raise UsageError("stdin is not UTF-8 text.", fix="convert it to UTF-8.") from error
    if not text:
        raise UsageError(f"the {what} is empty.", fix="give at least one character.")
    return text
