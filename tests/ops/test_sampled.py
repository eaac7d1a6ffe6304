"""Graphs that end with the sampled rows: which operations are computed for those only."""

from __future__ import annotations

import inspect

from rbee_worker.ops import Ops
from rbee_worker.ops.graph.graph import BATCH, Graph, Node, Value
from rbee_worker.ops.graph.nodes import NodeOps
from rbee_worker.ops.graph.recorder import GraphOps
from rbee_worker.ops.graph.sampled import CHOOSE, ROWWISE, sampled


def test_an_operation_of_single_rows_does_not_see_the_batch() -> None:
    for name in ROWWISE:
        assert "batch" not in inspect.signature(getattr(Ops, name)).parameters
    recorded = [kind for kind in GraphOps.__mro__ if issubclass(kind, NodeOps)]
    known = {name for kind in recorded for name in vars(kind) if not name.startswith("_")}
    alone = {n for n in known if callable(getattr(GraphOps, n)) and "batch" not in _names(n)}
    assert alone - ROWWISE == {"record", "add_rms_norm"}  # the latter is recorded as two others


def _names(name: str) -> list[str]:
    return list(inspect.signature(getattr(GraphOps, name)).parameters)


def test_what_follows_the_last_attention_has_the_sampled_rows() -> None:
    x, seen, added, out = (Value(8) for _ in range(4))
    graph = Graph(
        [
            Node("embed", ("table", BATCH), {}, (x,)),
            Node("attend", (x, x, x, "where", BATCH), {}, (seen,)),
            Node("add", (seen, x), {"wide": False}, (added,)),
            Node("linear", (added, "matrix", None), {}, (out,)),
        ],
        None,
        (out, x),
    )
    found = sampled(graph)
    assert [n.op for n in found.nodes] == ["embed", "attend", CHOOSE, CHOOSE, "add", "linear"]
    first, second = found.nodes[2:4]
    assert (first.args, second.args) == ((seen, BATCH), (x, BATCH))
    assert found.nodes[4].args == (first.outputs[0], second.outputs[0])
    assert found.results == (out, second.outputs[0])
    assert graph.nodes[2].args == (seen, x)  # the graph that was given is as it was
