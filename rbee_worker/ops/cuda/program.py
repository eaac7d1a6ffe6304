"""`Program`: a lowered graph, ready to run: one call per node, in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.graph.graph import BATCH, Graph, Node, Value


class _At(int):
    """A place in the list of values."""


# operations whose results are never views of other values
_NEW = ("embed", "product", "each", "norm_and", "experts", "sampled_rows")


class Program:
    """Runs a graph's nodes as methods of `DeviceOps`. Values are dropped after their last use, so
    that their memory serves again."""

    def __init__(self, graph: Graph, ops: DeviceOps) -> None:
        self.graph = graph
        self._places: dict[Value, _At] = {}
        self._own: set[Value] = set()  # values with memory of their own, no views
        if graph.given is not None:
            self._place(graph.given)
        self._calls = [
            self._call(node, ops, ends)
            for node, ends in zip(graph.nodes, graph.last_uses(), strict=True)
        ]
        self._results = [self._places[value] for value in graph.results]

    def _place(self, value: Value) -> _At:
        return self._places.setdefault(value, _At(len(self._places)))

    def _call(
        self, node: Node, ops: DeviceOps, ends: tuple[Value, ...]
    ) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], list[_At], list[_At]]:
        args = tuple(self._argument(one) for one in node.args)
        options = {name: self._argument(one) for name, one in node.options.items()}
        residual = node.options.get("residual")
        if node.op == "product" and residual in ends and residual in self._own:
            options["owned"] = True  # the result may take the residual's place
        if node.op in _NEW:
            self._own.update(node.outputs)
        outputs = [self._place(value) for value in node.outputs]
        return getattr(ops, node.op), args, options, outputs, [self._places[v] for v in ends]

    def _argument(self, one: Any) -> Any:
        if isinstance(one, Value):
            return self._places[one]
        if isinstance(one, tuple) and any(isinstance(part, Value) for part in one):
            return [self._places[part] for part in one]
        return one

    def run(self, batch: Batch | None, given: Tensor | None = None) -> tuple[Tensor, ...]:
        """The results for a batch; given: the input of the first node, if the graph takes one."""
        values: list[Any] = [None] * len(self._places)
        if given is not None:
            values[0] = given

        def real(one: Any) -> Any:
            if one is BATCH:
                return batch
            if isinstance(one, _At):
                return values[one]
            if isinstance(one, list):
                return [values[place] for place in one]
            return one

        for function, args, options, outputs, ends in self._calls:
            made = function(*map(real, args), **{k: real(v) for k, v in options.items()})
            parts = made if isinstance(made, tuple) else (made,)
            for place, one in zip(outputs, parts if outputs else (), strict=True):
                values[place] = one
            for place in ends:
                values[place] = None
        return tuple(values[place] for place in self._results)
