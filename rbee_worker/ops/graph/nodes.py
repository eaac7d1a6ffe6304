"""`NodeOps`: what all operations need that are recorded into a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rbee_worker.ops import Ops
from rbee_worker.ops.batch import Array
from rbee_worker.ops.graph.graph import Form, Graph, Node, Value
from rbee_worker.state.specs import StateGroup


class NodeOps(Ops):
    """See `Ops`. An activation is a `Value`, and the batch is not looked at."""

    graph: Graph | None = None
    groups: tuple[StateGroup, ...] = ()

    def record(self, groups: tuple[StateGroup, ...], given: Value | None = None) -> Graph:
        """Begin a graph, to which every operation from now on is added."""
        self.graph, self.groups = Graph(given=given), groups
        return self.graph

    def _node(
        self, op: str, args: tuple[Any, ...], widths: Sequence[int], form: Form = "compute",
        **options: Any,
    ) -> tuple[Value, ...]:  # fmt: skip
        assert self.graph is not None, "operations of this backend are only recorded"
        outputs = tuple(Value(width, form) for width in widths)
        self.graph.nodes.append(Node(op, args, options, outputs))
        return outputs

    def _one(
        self, op: str, args: tuple[Any, ...], width: int, form: Form = "compute", **options: Any
    ) -> Value:
        return self._node(op, args, (width,), form, **options)[0]


def has_width(x: Array, width: int) -> None:
    """Assert that an activation has this many columns."""
    assert isinstance(x, Value), "an activation of another backend"
    assert x.width == width, f"{x.width} columns, expected {width}"
