"""`Graph`: the operations of a model in order, and the values between them.

A model is plain Python over `Ops`. Run once with `recorder.GraphOps`, it leaves one node per
operation. Torch-free: a node has what its operation was given, and nothing is computed here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Form = Literal["compute", "f32", "ids"]


@dataclass(eq=False)
class Value:
    """An activation [rows, width] that stands for its numbers.

    form: "compute" is the model's compute dtype, "f32" is always float32, "ids" are integers.
    """

    width: int
    form: Form = "compute"


class TheBatch:
    """Stands for the batch of a step among a node's arguments."""


BATCH = TheBatch()


@dataclass(eq=False)
class Node:
    """One operation: its name in `Ops` (or a fused one's), its arguments and its results.

    args: in the order of the operation's parameters; an activation is a `Value`, several are a
    tuple of them, the batch is `BATCH`, everything else is the argument itself.
    """

    op: str
    args: tuple[Any, ...]
    options: Mapping[str, Any]
    outputs: tuple[Value, ...]

    def inputs(self) -> Iterator[Value]:
        """The activations among the arguments."""
        for one in (*self.args, *self.options.values()):
            if isinstance(one, Value):
                yield one
            elif isinstance(one, tuple):
                yield from (v for v in one if isinstance(v, Value))


@dataclass
class Graph:
    """Nodes in the order of computing. given: the input of the first node, if it takes one."""

    nodes: list[Node] = field(default_factory=list)
    given: Value | None = None
    results: tuple[Value, ...] = ()

    def users(self) -> dict[Value, list[Node]]:
        """The nodes that take each value, one entry per use."""
        found: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.inputs():
                found.setdefault(value, []).append(node)
        return found

    def makers(self) -> dict[Value, Node]:
        """The node that makes each value."""
        return {value: node for node in self.nodes for value in node.outputs}

    def last_uses(self) -> list[tuple[Value, ...]]:
        """For each node, the values that nothing needs after it."""
        seen: set[Value] = set(self.results)
        found: list[tuple[Value, ...]] = []
        for node in reversed(self.nodes):
            ends = dict.fromkeys(v for v in (*node.inputs(), *node.outputs) if v not in seen)
            seen.update(ends)
            found.append(tuple(ends))
        return found[::-1]


def replaced(nodes: Sequence[Node], changes: Mapping[Node, Sequence[Node]]) -> list[Node]:
    """The nodes, each of `changes` replaced by others (by none: removed)."""
    return [new for node in nodes for new in changes.get(node, (node,))]
