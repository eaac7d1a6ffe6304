"""Reads llama.cpp's grammars (GBNF).

root ::= "a" ([0-9]+ | other)?    # a comment
"""

from __future__ import annotations

import re

from rbee_worker.constraints.gbnf_lark import Writer
from rbee_worker.constraints.gbnf_nodes import (
    LAST,
    Node,
    Ref,
    Repeat,
    Rules,
    Set,
    Several,
    Word,
    others,
    references,
)
from rbee_worker.constraints.unheld import Unheld

MOST_REPEATS = 10_000
MOST_DEPTH = 100  # of parentheses


_TOKEN = re.compile(
    r"""(?P<space>[ \t\r]+|\#[^\n]*)|(?P<newline>\n)|(?P<define>::=)|(?P<name>[A-Za-z][\w-]*)
    |(?P<string>"(?:[^"\\\n]|\\.)*")|(?P<set>\[(?:[^\]\\\n]|\\.)*\])|(?P<times>\{[^}\n]*\})
    |(?P<mark>[.*+?()|])""",
    re.VERBOSE,
)
_ESCAPED = re.compile(r"\\(x[0-9A-Fa-f]{2}|u[0-9A-Fa-f]{4}|U[0-9A-Fa-f]{8}|.)|(.)", re.DOTALL)
_TIMES = re.compile(r"\{\s*(\d{1,9})\s*(?:(,)\s*(\d{1,9})?\s*)?\}")
_SHORT = {"n": "\n", "r": "\r", "t": "\t"}


def lark_of_gbnf(text: str) -> str:
    """The same grammar in Lark, from the rule `root`. Raises Unheld, which names the line."""
    rules = _Parser(text).rules()
    if "root" not in rules:
        raise Unheld("the grammar has no rule root", "")
    return Writer(rules).lark()


class _Parser:
    """Recursive descent over the tokens of a grammar."""

    def __init__(self, text: str) -> None:
        self._tokens: list[tuple[str, str, int]] = []  # kind, text, line
        at, line = 0, 1
        while at < len(text):
            found = _TOKEN.match(text, at)
            if found is None:
                raise _fault(line, f"cannot be read from {text[at : at + 20].splitlines()[0]!r} on")
            kind = found.lastgroup or ""
            if kind != "space":
                self._tokens.append((kind, found[0], line))
            line += kind == "newline"
            at = found.end()
        self._tokens.append(("end", "", line))
        self._at = self._depth = 0

    def rules(self) -> Rules:
        found: dict[str, Node] = {}
        while self._skip_lines() != "end":
            name, line = self._take("name", "a rule's name"), self._line
            self._take("define", "::=")
            self._skip_lines()
            if name in found:
                raise _fault(line, f"the rule {name[:64]} is there twice")
            found[name] = self._choice(nested=False)
            if self._kind not in ("newline", "end"):
                raise _fault(self._line, f"{self._text[:20]!r} is not expected here")
        for node in found.values():
            for ref in references(node):
                if ref.name not in found:
                    raise _fault(ref.line, f"there is no rule {ref.name[:64]}")
        return found

    def _choice(self, *, nested: bool) -> Node:
        options = [self._sequence(nested)]
        while self._next_over_lines() == "|":
            self._skip_lines()
            self._at += 1
            self._skip_lines()
            options.append(self._sequence(nested))
        return options[0] if len(options) == 1 else Several(tuple(options), choice=True)

    def _sequence(self, nested: bool) -> Node:
        items: list[Node] = []
        while True:
            if nested:
                self._skip_lines()
            kind, text, line = self._tokens[self._at]
            if kind == "string":
                item: Node = Word("".join(_units(text[1:-1], line)))
            elif kind == "set":
                item = _set(text[1:-1], line)
            elif text == ".":
                item = Set(((0, LAST),))
            elif kind == "name" and self._tokens[self._at + 1][0] != "define":
                item = Ref(text, line)
            elif text == "(":
                item = self._group()
            else:
                return items[0] if len(items) == 1 else Several(tuple(items), choice=False)
            self._at += 1
            items.append(self._repeated(item))

    def _group(self) -> Node:
        """What is in parentheses; stops at the closing one."""
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise _fault(self._line, f"more than {MOST_DEPTH} parentheses in one another")
        self._at += 1
        found = self._choice(nested=True)
        self._skip_lines()
        if self._text != ")":
            raise _fault(self._line, "a parenthesis is not closed")
        self._depth -= 1
        return found

    def _repeated(self, item: Node) -> Node:
        while True:
            kind, text, line = self._tokens[self._at]
            if kind == "times":
                found = _TIMES.fullmatch(text)
                if found is None:
                    raise _fault(line, f"{text[:20]} is no number of times")
                low = int(found[1])
                high = int(found[3]) if found[3] else None if found[2] else low
                if (high is not None and high < low) or max(low, high or 0) > MOST_REPEATS:
                    raise _fault(
                        line, f"{text[:20]}: at most {MOST_REPEATS} times, the least first"
                    )
                item = Several((), choice=False) if high == 0 else Repeat(item, low, high)
            elif text in ("*", "+", "?"):
                item = Repeat(item, int(text == "+"), 1 if text == "?" else None)
            else:
                return item
            self._at += 1

    @property
    def _kind(self) -> str:
        return self._tokens[self._at][0]

    @property
    def _text(self) -> str:
        return self._tokens[self._at][1]

    @property
    def _line(self) -> int:
        return self._tokens[self._at][2]

    def _next_over_lines(self) -> str:
        """The next token's text, also on a later line if it is `|`, which begins no rule."""
        at = self._at
        while self._tokens[at][0] == "newline":
            at += 1
        return self._tokens[at][1]

    def _skip_lines(self) -> str:
        while self._kind == "newline":
            self._at += 1
        return self._kind

    def _take(self, kind: str, wanted: str) -> str:
        if self._kind != kind:
            raise _fault(self._line, f"{wanted} is expected before {self._text[:20]!r}")
        self._at += 1
        return self._tokens[self._at - 1][1]


def _fault(line: int, message: str) -> Unheld:
    return Unheld(f"line {line} of the grammar: {message}", "")


def _units(text: str, line: int) -> list[str]:
    """The characters of a string or set, each resolved; an escaped one is never a range's dash."""
    found = []
    for escape, plain in _ESCAPED.findall(text):
        if plain:
            found.append(plain)
        elif len(escape) > 1:
            code = int(escape[1:], 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise _fault(line, f"\\{escape} is no character")
            found.append(chr(code))
        elif escape in _SHORT or escape in '"\\[]-^':
            found.append(_SHORT.get(escape, escape))
        else:
            raise _fault(line, f"\\{escape} is no escape")
    return found


def _set(text: str, line: int) -> Set:
    """A set of characters, [..] or [^..]."""
    negated = text.startswith("^")
    marks = [m[0] for m in _ESCAPED.finditer(text[negated:])]
    units = _units(text[negated:], line)
    ranges, at = [], 0
    while at < len(units):
        last = at + 2 if at + 2 < len(units) and marks[at + 1] == "-" else at
        if units[at] > units[last]:
            raise _fault(line, f"the range {units[at]}-{units[last]} is empty")
        ranges.append((ord(units[at]), ord(units[last])))
        at = last + 1
    if not ranges:
        raise _fault(line, "a set without characters")
    return Set(tuple(others(ranges) if negated else ranges))
