"""Rewriting a graph: chains of operations become one operation that a backend has a kernel for.

A fusion is a row of a backend's table: a name, and a function that finds one kind of place and
returns the nodes to put there. Fusions are applied one after another, each wherever it matches.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from rbee_worker.ops.graph.graph import Graph, Node, Value, replaced

Change = Mapping[Node, Sequence[Node]]  # a node -> what takes its place


@dataclass(frozen=True)
class Links:
    """Who makes and who uses the values of a graph."""

    makers: Mapping[Value, Node]
    users: Mapping[Value, Sequence[Node]]
    results: frozenset[Value]

    def maker(self, value: object, op: str) -> Node | None:
        """The node that makes `value`, if it is an `op`."""
        node = self.makers.get(value) if isinstance(value, Value) else None
        return node if node is not None and node.op == op else None

    def only_user(self, value: Value) -> Node | None:
        """The node that uses `value`, if it is used once and is no result."""
        users = self.users.get(value, ())
        return users[0] if len(users) == 1 and value not in self.results else None


@dataclass(frozen=True)
class Fusion:
    """name: for a person; find: the change at one node, or None if the fusion does not apply.
    repeats: it is applied until it applies nowhere; each change then leaves fewer nodes."""

    name: str
    find: Callable[[Node, Links], Change | None]
    repeats: bool = False


def links(graph: Graph) -> Links:
    """The graph's links as they are now."""
    return Links(graph.makers(), graph.users(), frozenset(graph.results))


def fused(graph: Graph, fusions: Sequence[Fusion]) -> tuple[Graph, dict[str, int]]:
    """The graph with all fusions applied, and how often each was."""
    counts = {fusion.name: 0 for fusion in fusions}
    nodes = list(graph.nodes)
    for fusion in fusions:
        nodes, count = _applied(fusion, replace(graph, nodes=nodes))
        counts[fusion.name] += count
        while fusion.repeats and count:
            nodes, count = _applied(fusion, replace(graph, nodes=nodes))
            counts[fusion.name] += count
    return replace(graph, nodes=nodes), counts


def _applied(fusion: Fusion, graph: Graph) -> tuple[list[Node], int]:
    """The graph's nodes after the fusion was applied wherever it matched, and how often."""
    changed: set[Node] = set()
    changes: dict[Node, Sequence[Node]] = {}
    count, now = 0, links(graph)
    for node in graph.nodes:
        change = fusion.find(node, now)
        if change is not None and changed.isdisjoint(change):
            changes.update(change)
            changed.update(change)
            count += 1
    return replaced(graph.nodes, changes), count
