"""From a piece of a model to a `Program`: recorded, and fused by the table of fusions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.fusions import FUSIONS
from rbee_worker.ops.cuda.ops import CudaOps
from rbee_worker.ops.cuda.program import Program
from rbee_worker.ops.graph.fusion import fused
from rbee_worker.ops.graph.graph import Graph, Value
from rbee_worker.state.specs import StateGroup

NO_BATCH: Batch = None  # type: ignore[assignment]  # recording never looks at the batch


def lowered(
    ops: CudaOps,
    groups: tuple[StateGroup, ...],
    piece: Callable[[Any], Any],
    given: Value | None = None,
    *,
    adapting: bool = True,
    change: Callable[[Graph], Graph] | None = None,
) -> tuple[Program, dict[str, int]]:
    """A piece of a model with these state groups, a function of `given`, as a program, and the
    fusions in it. adapting: see `GraphOps`. change: is made to the graph before it is fused."""
    graph: Graph = ops.record(groups, given)
    ops.adapting = adapting
    result = piece(given)
    graph.results = (result,)
    ops.graph = None
    whole, counts = fused(graph if change is None else change(graph), FUSIONS)
    return Program(whole, ops.now), counts
