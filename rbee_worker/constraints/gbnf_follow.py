"""Which terminals of a grammar can come first, after one another, and in one place."""

from __future__ import annotations

from collections.abc import Sequence

from rbee_worker.constraints.gbnf_nodes import Node, Ref, Repeat, Several, Term
from rbee_worker.constraints.gbnf_texts import Texts

_MOST_PLACES = 1000


class Following:
    """Which terminals can come first, and after each: bit masks of their numbers."""

    def __init__(self, rules: dict[str, Node], terms: int) -> None:
        self._rules = rules
        self._first: dict[str, tuple[int, bool]] = dict.fromkeys(rules, (0, False))
        while (new := {n: self._of(rule) for n, rule in rules.items()}) != self._first:
            self._first = new
        self.start = self._first["root"][0]
        self.after = [0] * terms
        self._ends = dict.fromkeys(rules, 0)
        before: list[int] = []
        while before != (now := [*self.after, *self._ends.values()]):
            before = now
            for name, rule in rules.items():
                self._follow(rule, self._ends[name])

    def _of(self, node: Node) -> tuple[int, bool]:
        """What a part can begin with, and whether it can be empty."""
        match node:
            case Term():
                return 1 << node.number, False
            case Ref():
                return self._first[node.name]
            case Repeat():
                first, empty = self._of(node.item)
                return first, empty or node.low == 0
        assert isinstance(node, Several)
        found, empty = 0, not node.choice
        for item in node.items:
            first, can = self._of(item)
            if node.choice:
                found, empty = found | first, empty or can
            else:
                found, empty = found | (first if empty else 0), empty and can
        return found, empty

    def _follow(self, node: Node, after: int) -> None:
        match node:
            case Term():
                self.after[node.number] |= after
            case Ref():
                self._ends[node.name] |= after
            case Repeat():
                again = self._of(node.item)[0] if node.high != 1 else 0
                self._follow(node.item, after | again)
            case Several():
                for item in reversed(node.items):
                    self._follow(item, after)
                    if not node.choice:
                        first, empty = self._of(item)
                        after = first | (after if empty else 0)


def together_of(texts: Sequence[Texts], follow: Following) -> set[int]:
    """Sets of terminals that may stand in one place. After a text that is of several terminals,
    what follows any of them may come."""
    found, todo = {follow.start}, [follow.start]
    while todo:
        place = todo.pop()
        numbers = [n for n in range(len(texts)) if place >> n & 1]
        for a in numbers:
            new = 0
            for b in numbers:
                new |= follow.after[b] if texts[a].first & texts[b].first else 0
            if new not in found:
                found.add(new)
                todo.append(new)
        if len(found) > _MOST_PLACES:
            return {(1 << len(texts)) - 1}
    return found


def first_of(texts: Sequence[Texts], numbers: int) -> int:
    """What the texts of some terminals can begin with."""
    found = 0
    for number, text in enumerate(texts):
        if numbers >> number & 1:
            found |= text.first
    return found
