"""What is known of the texts of a regular part of a GBNF grammar, as sets of characters.

A set is a bit mask over the *kinds* of characters: those that the same ranges of the grammar
contain are one kind.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import NamedTuple

from rbee_worker.constraints.gbnf_nodes import (
    Node,
    Range,
    Ref,
    Repeat,
    Rules,
    Set,
    Several,
    Word,
    within,
)


class Texts(NamedTuple):
    """nullable: the empty text is one. first: what a text can begin with. more: what can come
    directly after a whole text inside a longer one. every: all characters of all texts. single:
    every text has one character."""

    nullable: bool
    first: int
    more: int
    every: int
    single: bool = False


class Regular:
    """Knows the texts of regular nodes. rules: of which references are looked up."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        marks = {0}
        for rule in rules.values():
            for node in within(rule):
                for first, last in _ranges(node):
                    marks |= {first, last + 1}
        self._marks = sorted(marks)
        self._known: dict[int, Texts] = {}

    def texts(self, node: Node) -> Texts:
        """The texts of a node that leads to no recursion."""
        found = self._known.get(id(node))
        if found is None:
            found = self._known[id(node)] = self._texts(node)
        return found

    def _texts(self, node: Node) -> Texts:
        match node:
            case Word():
                kinds = [self._kinds([(ord(c), ord(c))]) for c in node.text]
                every = _union(kinds)
                return Texts(not kinds, kinds[0] if kinds else 0, 0, every, len(kinds) == 1)
            case Set():
                kinds_ = self._kinds(node.ranges)
                return Texts(False, kinds_, 0, kinds_, True)
            case Ref():
                return self.texts(self._rules[node.name])
            case Repeat():
                return _repeated(self.texts(node.item), node)
            case Several():
                parts = [self.texts(item) for item in node.items]
                return _one_of(parts) if node.choice else _in_turn(parts)
        raise AssertionError(node)  # terminals are made of these

    def _kinds(self, ranges: Iterable[Range]) -> int:
        found = 0
        for first, last in ranges:
            low, high = (bisect_right(self._marks, c) - 1 for c in (first, last))
            found |= (1 << high + 1) - (1 << low)
        return found


def _ranges(node: Node) -> Iterable[Range]:
    if isinstance(node, Set):
        return node.ranges
    return [(ord(c), ord(c)) for c in node.text] if isinstance(node, Word) else ()


def _union(sets: Iterable[int]) -> int:
    found = 0
    for one in sets:
        found |= one
    return found


def _repeated(item: Texts, node: Repeat) -> Texts:
    again = node.high is None or node.high > node.low or item.nullable
    more = item.more | (item.first if again else 0)
    if item.more & item.first and node.high != 1:
        more = item.every  # where one ends and the next begins is not certain
    single = item.single and node.low == node.high == 1
    return Texts(node.low == 0 or item.nullable, item.first, more, item.every, single)


def _one_of(parts: list[Texts]) -> Texts:
    more = _union(part.more for part in parts)
    for number, part in enumerate(parts):
        for other in parts[:number]:
            if part.nullable or other.nullable:
                more |= part.first | other.first
            if part.first & other.first and not (part.single and other.single):
                more |= part.every | other.every  # one may begin with all of the other
    return Texts(
        any(part.nullable for part in parts),
        _union(part.first for part in parts),
        more,
        _union(part.every for part in parts),
        all(part.single for part in parts),
    )


def _in_turn(parts: list[Texts]) -> Texts:
    """The texts of several parts one after another."""
    first = more = 0
    open_ = certain = True  # open: all parts so far can be empty
    for number, part in enumerate(parts):
        first |= part.first if open_ else 0
        open_ = open_ and part.nullable
        more = (more | part.first if part.nullable else 0) | part.more
        rest = _first(parts[number + 1 :])
        certain &= not (part.more & rest or (part.nullable and part.first & rest))
    if not certain:  # a whole text may be the beginning of another with other borders
        more = _union(part.every for part in parts)
    single = len(parts) == 1 and parts[0].single
    return Texts(open_, first, more, _union(part.every for part in parts), single)


def _first(parts: list[Texts]) -> int:
    """What the texts of parts in turn can begin with."""
    found = 0
    for part in parts:
        found |= part.first
        if not part.nullable:
            break
    return found
