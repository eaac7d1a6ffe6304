"""Calls whose keys and values stand between tags, as in XML without its escapes."""

from __future__ import annotations

from collections.abc import Mapping

from rbee_worker.answer.kinds import Section, Tagged
from rbee_worker.answer.schemas import Tool, written
from rbee_worker.answer.tape import BLANK, END, Doing, Taking, Tape, Trying, automaton_of
from rbee_worker.answer.values import read_word

_NO_TOOL = Tool()
_AROUND = BLANK + '<>"/｜DSML'  # may stand between tags, or is left of them
_BROKEN = "\0"  # in the place of a mark


def read_tagged(tape: Tape, section: Section, body: Tagged, tools: Mapping[str, Tool]) -> Doing:
    """The calls of such a section."""
    before = tape.calls
    while True:
        some = tape.calls > before
        if body.before_name:
            marks = (body.before_name, *section.closes)
            mark = yield from tape.seek(marks, anything=some or body.before_name[0] != "<")
            if mark != body.before_name:
                tape.leave(some, mark)
                return
        name = yield from read_word(tape)
        if not name:
            tape.give_back()
            return
        tape.begin(name)
        mark = yield from _arguments(tape, section, body, tools.get(name, _NO_TOOL))
        if mark == _BROKEN:
            yield from tape.broken(section.closes)
            return
        if mark != END:
            tape.end()
        if mark in section.closes or mark == END:
            return


def _arguments(tape: Tape, section: Section, body: Tagged, tool: Tool) -> Taking:
    """The arguments of one call; the mark that ends it, or that it is broken."""
    count = 0
    while True:
        between, mark = yield from tape.until((body.key, body.end, *section.closes))
        if mark != END and between.strip(_AROUND):
            tape.argue(between + mark)
            return _BROKEN
        if mark != body.key:
            if mark != END:
                tape.argue("}" if count else "{}")
            return mark
        key, end = yield from tape.until((body.key_end,))
        if end == END:
            return END
        said = ""
        if body.value:
            said, end = yield from tape.until((body.value,))
            if end == END:
                return END
        count += 1
        tape.argue(f"{', ' if count > 1 else '{'}{written(key.strip())}: ")
        text = tool.is_text(key.strip()) or 'string="true"' in said
        if text:
            whole = yield from _text(tape, body)
        else:
            found, end = yield from tape.until((body.value_end,))
            whole = end != END
            if whole:
                tape.argue(tool.value(key.strip(), _trimmed(found) if body.trim else found))
        if not whole:
            return END


def _text(tape: Tape, body: Tagged) -> Trying:
    """A value that is a string, given out while it comes; whether it was complete."""
    automaton, node, held = automaton_of((body.value_end,)), 0, ""
    tape.argue('"')
    start = body.trim
    while char := (yield from tape.take()):
        held += char
        node = automaton.step(node, char)
        mark = automaton.match[node]
        if start and held == "\n":
            held = ""
        start = False
        if mark is not None:
            rest = held[: -len(mark)]
            tape.argue(written(rest.removesuffix("\n") if body.trim else rest)[1:])
            return True
        keep = automaton.hold[node]
        done = held[: len(held) - keep]
        if body.trim and done.endswith("\n"):
            done = done[:-1]  # it may be the one before the closing tag
        tape.argue(written(done)[1:-1])
        held = held[len(done) :]
    return False  # what is held may be the beginning of the closing tag


def _trimmed(text: str) -> str:
    """The text without one line break at each end."""
    return text.removeprefix("\n").removesuffix("\n")
