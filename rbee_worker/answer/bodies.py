"""Reads the calls of a section: one coroutine for each way to write them (`formats.Body`).

Each begins behind the section's opening mark, which is on the tape, and ends behind the section. If
it finds no call it gives everything back as text.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rbee_worker.answer.kinds import Body, Named, Objects, Pairs, Python, Section, Tagged
from rbee_worker.answer.pairs import read_pairs
from rbee_worker.answer.python_calls import read_python
from rbee_worker.answer.schemas import Tool
from rbee_worker.answer.tagged import read_tagged
from rbee_worker.answer.tape import END, Doing, Tape, Trying
from rbee_worker.answer.values import NAME, plain_string, read_word, value

_BESIDE = ("id", "tool_call_id", "type", "index")  # keys of a call that are no arguments
_MOST_JUNK = 256  # characters between a name and its arguments

Tools = Mapping[str, Tool]


def begins(body: Body, char: str) -> bool:
    """Whether an answer that begins with this character may begin with a call."""
    match body:
        case Objects():
            return char in "{["
        case Python():
            return char == "["
        case _:
            return char in NAME


def read_section(tape: Tape, section: Section, tools: Tools, *, bare: bool = False) -> Doing:
    """The calls of a section. bare: it has no mark, so only a known tool's name makes it one."""
    only = tools if bare else None
    match section.body:
        case Objects() as body:
            yield from _objects(tape, section, body, only)
        case Named() as body:
            yield from _named(tape, section, body, only)
        case Tagged() as body:
            yield from read_tagged(tape, section, body, tools)
        case Python():
            yield from read_python(tape, section, tools, bare=bare)
        case Pairs() as body:
            yield from read_pairs(tape, section, body, tools)


def read_value(tape: Tape, name: str, closes: tuple[str, ...]) -> Trying:
    """A call of `name` whose arguments are the JSON object that comes next; False if it is broken,
    which it is up to one of `closes`."""
    tape.begin(name)
    char = yield from tape.unblank()
    if char != "{" or not (yield from value(tape, char, tape.argue)):
        tape.back()
        yield from tape.broken(closes)
        return False
    tape.end()
    return True


# ---- JSON objects


def _objects(tape: Tape, section: Section, body: Objects, only: Tools | None) -> Doing:
    before = tape.calls
    while True:
        some = tape.calls > before
        mark = yield from tape.seek(("{", *section.closes), anything=some and section.closes != ())
        if mark != "{":
            tape.leave(some, mark)
            return
        before_it = tape.calls
        whole = yield from _object(tape, body, only)
        if tape.calls == before_it:
            tape.give_back()
            if not some:
                return
        elif not whole:
            yield from tape.broken(section.closes)
            return


def _object(tape: Tape, body: Objects, only: Tools | None) -> Trying:
    """The rest of an object, which may begin a call; whether that can be read. only: other names
    than these are none."""
    begun, whole, odd, early = False, False, False, list[str]()

    def give(text: str) -> None:
        if begun:
            tape.argue(text)
        else:
            early.append(text)  # until the name is known

    depth = 1  # 2 within {"type": "function", "function": {..}}
    char = yield from tape.unblank()
    while depth:
        if char == "}":
            depth -= 1
        elif char == '"':
            key = yield from plain_string(tape)
            colon = yield from tape.unblank()
            first = yield from tape.unblank()
            if key is None or colon != ":":
                break
            if key == "function" and first == "{":
                depth += 1
            elif key in (*body.names, "function") and first == '"' and not begun:
                name = yield from plain_string(tape)
                if not name or (only is not None and name not in only):
                    return False
                tape.begin(name)
                begun = True
                tape.argue("".join(early))
            elif not (yield from _member(tape, first, give if key in body.arguments else None)):
                break
            else:
                whole = whole or (key in body.arguments and first == "{")
                odd = odd or (begun and key not in _BESIDE)
        elif char != ",":
            break
        if depth:
            char = yield from tape.unblank()
    if depth:
        tape.back()
    if odd and not whole:
        tape.unread()  # something under a name that is not known: perhaps its arguments
    whole = whole or not depth
    if begun and whole:
        tape.end()
    return whole


def _member(tape: Tape, first: str, give: Callable[[str], None] | None) -> Trying:
    """A value of an object, which goes to `give` if it is the arguments: an object, or a string
    that contains one."""
    if give is None or first not in '{"':
        return (yield from value(tape, first, lambda _: None))
    if first == "{":
        return (yield from value(tape, first, give))
    text = yield from plain_string(tape)
    if text is not None:
        give(text)
    return text is not None


# ---- a name and an object


def _named(tape: Tape, section: Section, body: Named, only: Tools | None) -> Doing:
    before, marks = tape.calls, (*body.before, *section.closes)
    at_name = not body.before or body.before == section.opens
    while True:
        some = tape.calls > before
        if not at_name:
            mark = yield from tape.seek(marks, anything=section.closes != ())
            if mark not in body.before:
                tape.leave(some, mark)
                return
        at_name = False
        name = yield from read_word(tape)
        if not name or (only is not None and name not in only):
            tape.give_back()
            return
        if only is not None:
            char = yield from tape.unblank()
            tape.back()
            if char != "{":
                tape.give_back()
                return
        tape.begin(name)
        between, mark = yield from tape.until(("{", *marks), _MOST_JUNK)
        if mark == "{":
            if not (yield from value(tape, mark, tape.argue)):
                tape.back()
                yield from tape.broken(section.closes)
                return
            tape.end()
            continue
        if mark == END:
            yield from tape.broken(section.closes)
            return
        tape.argue(between if '"' in between else "")  # a string, not an object
        tape.end()
        if mark not in body.before:
            return
        at_name = True
