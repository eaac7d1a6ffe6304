"""llama.cpp's grammars (GBNF) in Lark: the language is the same, its writing is not.

GBNF is written in characters, an answer is parsed in *terminals*. Parts of a rule that refer to no
recursive rule are regular, so the longest runs of them become one terminal each; a grammar without
recursion is a single one. Between two terminals the parser takes the longest match of the first:
where that may eat what the second begins with, write both in one rule that is not recursive.

    root ::= "a" ([0-9]+ | other)?    # a comment
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rbee_worker.constraints.unheld import Unheld

MOST_REPEATS = 10_000
MOST_DEPTH = 100  # of parentheses


@dataclass(frozen=True)
class Text:
    """A terminal in Lark's writing: a string or a regular expression."""

    lark: str


@dataclass(frozen=True)
class Ref:
    """A reference to a rule."""

    name: str
    line: int


@dataclass(frozen=True)
class Repeat:
    """`low` to `high` times (None: any number)."""

    item: Node
    low: int
    high: int | None


@dataclass(frozen=True)
class Several:
    """Items one after another, or one of them."""

    items: tuple[Node, ...]
    choice: bool


Node = Text | Ref | Repeat | Several
Rules = Mapping[str, Node]
_Writing = Callable[[Node], str]

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
    return _Writer(rules).lark()


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
                item: Node = Text(json.dumps(_characters(text[1:-1], line)))
            elif kind == "set":
                item = Text(_set(text[1:-1], line))
            elif text == ".":
                item = Text("/(?s:.)/")
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
                item = Repeat(item, low, high)
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


def _characters(text: str, line: int) -> str:
    """The characters that a string or set spells."""
    return "".join(_units(text, line))


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


def _set(text: str, line: int) -> str:
    """A set of characters as a regular expression: every character by its number."""
    negated = text.startswith("^")
    marks = [m[0] for m in _ESCAPED.finditer(text[negated:])]
    units = _units(text[negated:], line)
    parts, at = [], 0
    while at < len(units):
        if at + 2 < len(units) and marks[at + 1] == "-":
            if units[at] > units[at + 2]:
                raise _fault(line, f"the range {units[at]}-{units[at + 2]} is empty")
            parts.append(f"{_code(units[at])}-{_code(units[at + 2])}")
            at += 3
        else:
            parts.append(_code(units[at]))
            at += 1
    if not parts:
        raise _fault(line, "a set without characters")
    return f"/[{'^' * negated}{''.join(parts)}]/"


def _code(char: str) -> str:
    return f"\\u{{{ord(char):x}}}"


def references(node: Node) -> list[Ref]:
    """Every reference in a node."""
    found, todo = [], [node]
    while todo:
        one = todo.pop()
        if isinstance(one, Ref):
            found.append(one)
        elif isinstance(one, Repeat):
            todo.append(one.item)
        elif isinstance(one, Several):
            todo += one.items
    return found


class _Writer:
    """Rules become `r0`, `r1`, .., regular ones `T0`, `T1`, ..; runs of regular items are terminals
    too."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._regular = self._regular_rules()
        names = enumerate(rules)
        self._names = {n: f"T{i}" if n in self._regular else f"r{i}" for i, n in names}
        self._lines: list[str] = []
        self._runs: dict[str, str] = {}  # a run's text -> its terminal

    def lark(self) -> str:
        for name in self._reached():
            node, new = self._rules[name], self._names[name]
            body = self._terminal(node) if name in self._regular else self._rule(node)
            self._lines.append(f"{new}: {body}")
        return "\n".join([f"start: {self._names['root']}", *self._lines])

    def _reached(self) -> list[str]:
        found, todo = ["root"], ["root"]
        while todo:
            for ref in references(self._rules[todo.pop()]):
                if ref.name not in found:
                    found.append(ref.name)
                    todo.append(ref.name)
        return found

    def _regular_rules(self) -> set[str]:
        """Rules that lead to no recursion."""
        regular: set[str] = set()
        refs = {name: {ref.name for ref in references(node)} for name, node in self._rules.items()}
        while more := {n for n, to in refs.items() if n not in regular and to <= regular}:
            regular |= more
        return regular

    def _is_regular(self, node: Node) -> bool:
        return all(ref.name in self._regular for ref in references(node))

    def _terminal(self, node: Node) -> str:
        """The right side of a terminal."""
        return self._written(node, self._terminal)

    def _rule(self, node: Node) -> str:
        """The right side of a rule, with the runs of regular items as terminals."""
        if self._is_regular(node):
            return self._run(node)
        if isinstance(node, Several) and not node.choice:
            parts: list[Node] = []
            run: list[Node] = []
            for item in (*node.items, None):
                if item is not None and self._is_regular(item):
                    run.append(item)
                    continue
                if run:
                    parts.append(Text(self._run(Several(tuple(run), choice=False))))
                    run = []
                if item is not None:
                    parts.append(item)
            return " ".join(p.lark if isinstance(p, Text) else self._rule(p) for p in parts)
        return self._written(node, self._rule)

    def _run(self, node: Node) -> str:
        """The name of a terminal for a regular node, which is written once."""
        if isinstance(node, Several) and len(node.items) == 1:
            node = node.items[0]
        if isinstance(node, Ref):
            return self._names[node.name]
        body = self._terminal(node)
        if body not in self._runs:
            self._runs[body] = f"R{len(self._runs)}"
            self._lines.append(f"{self._runs[body]}: {body}")
        return self._runs[body]

    def _written(self, node: Node, inner: _Writing) -> str:
        match node:
            case Text():
                return node.lark
            case Ref():
                return self._names[node.name]
            case Repeat():
                high = "" if node.high is None else node.high
                return f"({inner(node.item)}){{{node.low},{high}}}"
            case Several():
                return _joined([inner(item) for item in node.items], choice=node.choice)


def _joined(parts: Sequence[str], *, choice: bool) -> str:
    if not parts:
        return '""'
    return "(" + (" | " if choice else " ").join(parts) + ")"
