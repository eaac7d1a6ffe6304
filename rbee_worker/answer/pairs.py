"""Gemma's calls: `call:name{key:value,..}`, with bare keys and strings between a mark."""

from __future__ import annotations

from collections.abc import Mapping

from rbee_worker.answer.kinds import Pairs, Section
from rbee_worker.answer.schemas import Tool, written
from rbee_worker.answer.tape import BLANK, END, Doing, Tape, Trying, automaton_of
from rbee_worker.answer.values import read_word

_CALL = "call:"


def read_pairs(tape: Tape, section: Section, body: Pairs, tools: Mapping[str, Tool]) -> Doing:
    """The calls of such a section."""
    before = tape.calls
    while True:
        some = tape.calls > before
        mark = yield from tape.seek((_CALL, *section.closes), anything=some)
        if mark != _CALL:
            tape.leave(some, mark)
            return
        name = yield from read_word(tape)
        char = yield from tape.unblank()
        if not name or char != "{":
            tape.back()
            tape.give_back()
            return
        tape.begin(name)
        if not (yield from _members(tape, body, "}", keys=True)):
            tape.back()
            yield from tape.broken(section.closes)
            return
        tape.end()


def _members(tape: Tape, body: Pairs, end: str, *, keys: bool) -> Trying:
    """The members of an object or list up to its closing bracket; whether they were complete."""
    tape.argue("{" if keys else "[")
    count = 0
    while True:
        char = yield from tape.unblank()
        while char == ",":
            char = yield from tape.unblank()
        if char == end:
            tape.argue(end)
            return True
        if char == END:
            return False
        tape.back()
        if count:
            tape.argue(", ")
        count += 1
        if keys:
            key, colon = yield from tape.until((":",))
            if colon == END:
                return False
            name = key.strip(BLANK).strip('"').replace(body.quote, "")
            tape.argue(f"{written(name)}: ")
        if not (yield from _value(tape, body)):
            return False


def _value(tape: Tape, body: Pairs) -> Trying:
    char = yield from tape.unblank()
    if char == "{":
        return (yield from _members(tape, body, "}", keys=True))
    if char == "[":
        return (yield from _members(tape, body, "]", keys=False))
    if char == body.quote[0]:
        return (yield from _text(tape, body.quote, char))
    found = ""
    while char != END and char not in ",}]" and not tape.hidden:
        found += char
        char = yield from tape.take()
    tape.back()
    if char == END:
        return False
    tape.argue(Tool().value("", found))
    return not tape.hidden


def _text(tape: Tape, quote: str, char: str) -> Trying:
    """A string, from the first character of its opening mark; given out while it comes."""
    opening = char
    while len(opening) < len(quote) and (char := (yield from tape.take())):
        opening += char
    if opening != quote:
        return False
    automaton, node, held = automaton_of((quote,)), 0, ""
    tape.argue('"')
    while char := (yield from tape.take()):
        held += char
        node = automaton.step(node, char)
        if automaton.match[node] is not None:
            tape.argue(written(held[: -len(quote)])[1:])
            return True
        done = held[: len(held) - automaton.hold[node]]
        tape.argue(written(done)[1:-1])
        held = held[len(done) :]
    return False
