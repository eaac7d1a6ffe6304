"""Names and JSON values, character by character."""

from __future__ import annotations

import json
from collections.abc import Callable

from rbee_worker.answer.tape import BLANK, END, Generating, Taking, Tape, Trying

NAME = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")
_BARE = frozenset("0123456789+-.eEtrufalsn{}[]:," + BLANK)  # of JSON outside its strings
_SCALAR = frozenset("0123456789+-.eEtrufalsn")


def read_word(tape: Tape) -> Taking:
    """The name that comes next, "" if there is none, or if the text ends before it is complete.
    What follows it is taken again."""
    name = ""
    char = yield from tape.unblank()
    while char != END and char in NAME:
        name += char
        char = yield from tape.take()
    tape.back()
    return name if char != END else ""


def value(tape: Tape, first: str, give: Callable[[str], None]) -> Trying:
    """The value that begins with `first`: each of its characters goes to `give`. False if it is
    broken or not complete; the first character that is none of its is then taken again."""
    if first == '"':
        return (yield from _string(tape, give))
    if first not in "{[":
        return (yield from _scalar(tape, first, give))
    give(first)
    depth = 1
    while depth:
        char = yield from tape.take()
        if char == '"' and not tape.hidden:
            if not (yield from _string(tape, give)):
                return False
            continue
        if char == END or char not in _BARE or tape.hidden:
            tape.back()
            return False
        give(char)
        depth += (char in "{[") - (char in "}]")
    return True


def plain_string(tape: Tape) -> Generating[str | None]:
    """The text of the string whose quote was just taken; None if it is broken."""
    parts: list[str] = []
    if not (yield from _string(tape, parts.append)):
        return None
    try:
        text = json.loads("".join(parts), strict=False)
    except ValueError:
        return None
    return str(text)


def _string(tape: Tape, give: Callable[[str], None]) -> Trying:
    give('"')
    escaped = False
    while True:
        char = yield from tape.take()
        if char == END or tape.hidden:
            tape.back()
            return False
        give(char)
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = True
        elif char == '"':
            return True


def _scalar(tape: Tape, first: str, give: Callable[[str], None]) -> Trying:
    char = first
    while char != END and char in _SCALAR:
        give(char)
        char = yield from tape.take()
    tape.back()
    return first in _SCALAR
