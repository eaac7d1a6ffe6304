"""Writes a GBNF grammar in Lark: the same language, parsed in terminals instead of characters.

Terminals make masks fast: the parser walks through a regular expression many times faster than
through rules. A part of a rule that leads to no recursion is regular and could be one terminal. But
between terminals the parser always takes the longest match, so a part is one only where that is the
only match:

    1. What may follow it cannot also continue it: `[0-9]+` before `"."`, but not before `[0-9]`.
    2. No other terminal that may stand in its place goes on where it ends.

A part for which this does not hold is cut into its own parts, in the end into single characters.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from itertools import combinations

from rbee_worker.constraints.gbnf_follow import Following, first_of, together_of
from rbee_worker.constraints.gbnf_nodes import (
    LAST,
    Node,
    Ref,
    Repeat,
    Rules,
    Set,
    Several,
    Term,
    Word,
    references,
    within,
)
from rbee_worker.constraints.gbnf_texts import Regular
from rbee_worker.constraints.unheld import Unheld

MOST_NODES = 5000
_MOST_ROUNDS = 500


class Writer:
    """rules: complete, with a rule `root`."""

    def __init__(self, rules: Rules) -> None:
        if sum(1 for rule in rules.values() for _ in within(rule)) > MOST_NODES:
            raise Unheld(f"the grammar has more than {MOST_NODES} parts", "")
        self._rules = rules
        self._regular = _regular_rules(rules)
        self._known = Regular(rules)
        self._cut: set[int] = set()  # ids of nodes that are no terminals
        self._runs: dict[tuple[int, ...], Node] = {}  # consecutive items as one node
        self._terms: list[Node] = []
        self._opened: dict[str, Node] = {}  # rules that are written as rules

    def lark(self) -> str:
        """The grammar's text. Raises Unheld if it is too intricate."""
        for _ in range(_MOST_ROUNDS):
            self._plan()
            found = {id(self._terms[number]) for number in self._conflicts()}
            if not found:
                return self._text()
            self._cut |= found
        raise Unheld("the grammar is too intricate", "")

    # ---- which parts are terminals

    def _plan(self) -> None:
        """Every rule that is reached from the root, in terminals."""
        self._terms, self._opened = [], {}
        self._numbers: dict[int, Term] = {}
        todo = ["root"]
        while todo:
            name = todo.pop()
            if name not in self._opened:
                self._opened[name] = self._planned(self._rules[name])
                todo += [ref.name for ref in _refs(self._opened[name])]

    def _planned(self, node: Node) -> Node:
        if self._is_terminal(node):
            return self._term(node)
        match node:
            case Word():
                letters = [Set(((ord(c), ord(c)),)) for c in node.text]
                return Several(tuple(self._term(self._kept(node, c)) for c in letters), False)
            case Repeat():
                return Repeat(self._planned(node.item), node.low, node.high)
            case Several(choice=True):
                return Several(tuple(self._planned(item) for item in node.items), True)
            case Several():
                return Several(tuple(self._in_runs(node.items)), False)
            case Ref():
                return node
        raise AssertionError(node)  # a set is always a terminal

    def _kept(self, word: Word, letter: Set) -> Node:
        """One node for each letter of each word, however often this is planned."""
        return self._runs.setdefault((id(word), letter.ranges[0][0]), letter)

    def _in_runs(self, items: Sequence[Node]) -> Iterator[Node]:
        """The items of a sequence; those that are regular together, as far as they may be."""
        at = 0
        while at < len(items):
            end = at
            while end < len(items) and self._is_regular(items[end]):
                end += 1
            run = self._run(items[at:end])
            if end - at > 1 and self._is_terminal(run):
                yield self._term(run)
                at = end
            else:
                yield self._planned(items[at])
                at += 1

    def _run(self, items: Sequence[Node]) -> Node:
        key = tuple(map(id, items))
        return self._runs.setdefault(key, Several(tuple(items), choice=False))

    def _is_regular(self, node: Node) -> bool:
        return all(ref.name in self._regular for ref in references(node))

    def _is_terminal(self, node: Node) -> bool:
        if id(node) in self._cut or not self._is_regular(node):
            return False
        return not self._known.texts(node).nullable

    def _term(self, node: Node) -> Term:
        if id(node) not in self._numbers:
            self._numbers[id(node)] = Term(len(self._terms))
            self._terms.append(node)
        return self._numbers[id(node)]

    # ---- where the longest match may not be the only one

    def _conflicts(self) -> set[int]:
        """Terminals that cannot be such."""
        texts = [self._known.texts(node) for node in self._terms]
        if len(self._opened) == 1 and isinstance(self._opened["root"], Term):
            return set()
        follow = Following(self._opened, len(texts))
        found: set[int] = set()
        after = [first_of(texts, follow.after[number]) for number in range(len(texts))]
        for number, text in enumerate(texts):
            if text.more & after[number]:
                found.add(number)
        for together in together_of(texts, follow):
            numbers = [n for n in range(len(texts)) if together >> n & 1]
            for a, b in combinations(numbers, 2):
                one, other = texts[a], texts[b]
                if not one.first & other.first or (one.single and other.single):
                    continue
                if other.every & after[a] or one.every & after[b]:
                    found |= {n for n in (a, b) if not texts[n].single}
        return found

    # ---- the text

    def _text(self) -> str:
        names = {name: f"r{number}" for number, name in enumerate(self._opened)}
        inside: dict[str, str] = {}  # rules inside terminals
        lines = [f"start: {names['root']}"]
        for name, planned in self._opened.items():
            lines.append(f"{names[name]}: {_written(planned, names)}")
        for number, node in enumerate(self._terms):
            lines.append(f"T{number}: {self._terminal(node, inside)}")
        at = 0
        while at < len(inside):  # more may be found on the way
            name = [*inside][at]
            lines.append(f"{inside[name]}: {self._terminal(self._rules[name], inside)}")
            at += 1
        return "\n".join(lines)

    def _terminal(self, node: Node, inside: dict[str, str]) -> str:
        match node:
            case Word():
                return json.dumps(node.text)
            case Set():
                return _set(node)
            case Ref():
                return inside.setdefault(node.name, f"P{len(inside)}")
            case Repeat():
                return _times(self._terminal(node.item, inside), node)
            case Several():
                parts = [self._terminal(item, inside) for item in node.items]
                return _joined(parts, choice=node.choice)
        raise AssertionError(node)  # a terminal in a terminal


def _regular_rules(rules: Rules) -> set[str]:
    """Rules that lead to no recursion."""
    regular: set[str] = set()
    refs = {name: {ref.name for ref in references(node)} for name, node in rules.items()}
    while more := {n for n, to in refs.items() if n not in regular and to <= regular}:
        regular |= more
    return regular


def _refs(planned: Node) -> list[Ref]:
    if isinstance(planned, Term):
        return []
    return [one for one in within(planned) if isinstance(one, Ref)]


def _written(node: Node, names: dict[str, str]) -> str:
    """The right side of a rule."""
    match node:
        case Term():
            return f"T{node.number}"
        case Ref():
            return names[node.name]
        case Repeat():
            return _times(_written(node.item, names), node)
    assert isinstance(node, Several)
    return _joined([_written(item, names) for item in node.items], choice=node.choice)


def _times(item: str, node: Repeat) -> str:
    return f"({item}){{{node.low},{'' if node.high is None else node.high}}}"


def _joined(parts: Sequence[str], *, choice: bool) -> str:
    if not parts:
        return '""'
    return "(" + (" | " if choice else " ").join(parts) + ")"


def _set(node: Set) -> str:
    """A set as a regular expression: every character by its number."""
    if node.ranges == ((0, LAST),):
        return "/(?s:.)/"
    parts = (f"\\u{{{a:x}}}" + (f"-\\u{{{b:x}}}" if b > a else "") for a, b in node.ranges)
    return f"/[{''.join(parts)}]/"
