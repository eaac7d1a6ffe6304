"""The parts of a GBNF grammar."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

LAST = 0x10FFFF  # the last character
Range = tuple[int, int]  # characters, from .. to


@dataclass(frozen=True, eq=False)
class Word:
    """These characters."""

    text: str


@dataclass(frozen=True, eq=False)
class Set:
    """One character of these ranges."""

    ranges: tuple[Range, ...]


@dataclass(frozen=True, eq=False)
class Ref:
    """A reference to a rule."""

    name: str
    line: int


@dataclass(frozen=True, eq=False)
class Repeat:
    """`low` to `high` times (None: any number)."""

    item: Node
    low: int
    high: int | None


@dataclass(frozen=True, eq=False)
class Several:
    """Items one after another, or one of them."""

    items: tuple[Node, ...]
    choice: bool


@dataclass(frozen=True, eq=False)
class Term:
    """A terminal, by its number: what a regular part becomes (gbnf_lark.py)."""

    number: int


Node = Word | Set | Ref | Repeat | Several | Term
Rules = Mapping[str, Node]


def inner(node: Node) -> tuple[Node, ...]:
    """The nodes directly inside one."""
    if isinstance(node, Several):
        return node.items
    return (node.item,) if isinstance(node, Repeat) else ()


def within(node: Node) -> Iterator[Node]:
    """A node and all nodes inside it."""
    todo = [node]
    while todo:
        one = todo.pop()
        yield one
        todo += inner(one)


def references(node: Node) -> list[Ref]:
    """Every reference in a node."""
    return [one for one in within(node) if isinstance(one, Ref)]


def others(ranges: Sequence[Range]) -> list[Range]:
    """All characters that are not in these ranges."""
    found, at = [], 0
    for first, last in sorted(ranges):
        if first > at:
            found.append((at, first - 1))
        at = max(at, last + 1)
    return [*found, (at, LAST)] if at <= LAST else found
