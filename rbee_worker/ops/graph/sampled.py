"""A graph that ends with the sampled rows only: what comes after the last operation that looks at
other rows is not computed for the rest.

In a step that reads prompts, one row of each is sampled. The projection after the last attention,
the last MLP, the last norm and the head then have a few rows instead of thousands: of 32 layers
about a thirty-sixth of all products.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rbee_worker.ops.graph.graph import BATCH, Graph, Node, Value

# Operations that compute each row from the same row of their inputs, without the batch.
ROWWISE = frozenset(
    {
        *("linear", "logits", "heads_linear", "split", "concat", "add", "multiply", "scale"),
        *("clip", "act", "gated", "softcap", "lerp", "rms_norm", "layer_norm", "route", "experts"),
    }
)
CHOOSE = "sampled_rows"  # the operation that this adds: (x, batch) -> x of the sampled rows


def sampled(graph: Graph) -> Graph:
    """The graph whose results have the batch's sampled rows, in their order. It must be what was
    recorded, before fusions."""
    last = max((at for at, node in enumerate(graph.nodes) if node.op not in ROWWISE), default=-1)
    before, after = graph.nodes[: last + 1], graph.nodes[last + 1 :]
    made = {value for node in before for value in node.outputs}
    if graph.given is not None:
        made.add(graph.given)
    needed = [value for node in after for value in node.inputs()] + list(graph.results)
    chosen = {
        value: Value(value.width, value.form) for value in dict.fromkeys(needed) if value in made
    }
    picks = [Node(CHOOSE, (value, BATCH), {}, (new,)) for value, new in chosen.items()]
    rest = [_with(node, chosen) for node in after]
    results = tuple(chosen.get(value, value) for value in graph.results)
    return replace(graph, nodes=[*before, *picks, *rest], results=results)


def _with(node: Node, chosen: Mapping[Value, Value]) -> Node:
    """The node with other inputs."""

    def other(one: Any) -> Any:
        if isinstance(one, Value):
            return chosen.get(one, one)
        if isinstance(one, tuple) and any(isinstance(part, Value) for part in one):
            return tuple(other(part) for part in one)
        return one

    options = {name: other(one) for name, one in node.options.items()}
    return Node(node.op, tuple(map(other, node.args)), options, node.outputs)
