"""Calls as in Python: `[f(a=1), g(b="x")]`."""

from __future__ import annotations

from collections.abc import Mapping

from rbee_worker.answer.kinds import Section
from rbee_worker.answer.schemas import Tool, written
from rbee_worker.answer.tape import BLANK, END, Doing, Generating, Tape
from rbee_worker.answer.values import NAME, read_word

_NO_TOOL = Tool()


def read_python(tape: Tape, section: Section, tools: Mapping[str, Tool], *, bare: bool) -> Doing:
    """The calls of such a section. bare: it has no mark, so only a known tool makes it one."""
    before = tape.calls
    if bare:
        yield from tape.take()  # the bracket
    while True:
        some = tape.calls > before
        mark = (
            yield from tape.seek(section.closes, anything=False) if section.closes else _gap(tape)
        )
        if mark != END:
            tape.leave(some, mark)
            return
        name = yield from read_word(tape)
        char = yield from tape.take()
        known = name in tools if bare and not some else bool(name)
        if char != "(" or not known:
            tape.back()
            tape.leave(some, END)
            return
        tape.begin(name)
        if not (yield from _arguments(tape, tools.get(name, _NO_TOOL))):
            return
        tape.end()


def _gap(tape: Tape) -> Generating[str]:
    """Skips what stands between calls; the bracket that closes a list of them, or END."""
    while (char := (yield from tape.take())) and char in BLANK + ",":
        pass
    if char == "]":
        return char
    tape.back()
    return END


def _arguments(tape: Tape, tool: Tool) -> Generating[bool]:
    """The arguments behind the opening bracket; whether they were complete."""
    count = 0
    while True:
        text, end = yield from _argument(tape)
        if end != END and text.strip(BLANK):
            key, text = _split(text.strip(BLANK), tool, count)
            comma = ", " if count else "{"
            tape.argue(f"{comma}{written(key)}: {_value(tool, key, text)}")
            count += 1
        if end == ")":
            tape.argue("}" if count else "{}")
        if end != ",":
            return end == ")"


def _argument(tape: Tape) -> Generating[tuple[str, str]]:
    """The text of one argument, and what ends it: a comma, the closing bracket, END."""
    found, quote, depth, escaped = list[str](), "", 0, False
    while char := (yield from tape.take()):
        if escaped:
            escaped = False
        elif quote:
            escaped = char == "\\"
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif not depth and char in ",)":
            return "".join(found), char
        else:
            depth += (char in "([{") - (char in ")]}")
        found.append(char)
    return "".join(found), END


def _split(text: str, tool: Tool, place: int) -> tuple[str, str]:
    """An argument's name and value."""
    key, equals, rest = text.partition("=")
    key = key.strip(BLANK)
    if equals and key and all(char in NAME for char in key):
        return key, rest.strip(BLANK)
    return tool.name_of(place), text


def _value(tool: Tool, key: str, text: str) -> str:
    """A Python literal as JSON. Anything else is a string."""
    return (Tool() if text[:1] in ("'", '"') else tool).value(key, text)
