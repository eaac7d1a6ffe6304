"""The weights that decoding one token reads: only the chosen experts, and one row of an embedding
table. Found by recording the model without its weights."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops import Weight
from rbee_worker.ops.batch import Batch
from rbee_worker.ops.cuda.fusions import FUSIONS
from rbee_worker.ops.cuda.kept_shapes import FEW, Product
from rbee_worker.ops.cuda.plan import CudaPlanOps
from rbee_worker.ops.graph.fusion import fused
from rbee_worker.ops.graph.graph import Graph, Node, Value
from rbee_worker.ops.graph.recorder import GraphOps
from rbee_worker.ops.reference.ops import DTYPES
from rbee_worker.ops.sampling import Sampling

if TYPE_CHECKING:
    from rbee_worker.models.base import Decoder

_WHOLE = ("linear", "logits", "heads_linear")  # operations that read all of their matrix
NO_BATCH = cast("Batch", None)  # recording never looks at the batch


class TrafficOps(GraphOps):
    """Operations that store nothing; a weight's `nbytes` is what a product of one row reads."""

    name = "cuda"

    def __init__(self, dtype: str, *, planes: bool, f8: bool) -> None:
        self.device, self.dtype = "none", dtype
        self._plan = CudaPlanOps(dtype, planes=planes, f8=f8, read=True)

    def sampling(self, vocab_size: int) -> Sampling:
        raise AssertionError("nothing is computed with these operations")

    def matrix(self, parts: Sequence[Packed]) -> Weight:
        return self._plan.matrix(parts)

    def stack(self, members: Sequence[Sequence[Packed]]) -> Weight:
        return self._plan.stack(members)

    def vector(self, parts: Sequence[Packed]) -> Any:
        return np.broadcast_to(np.float32(0), sum(prod(part.shape) for part in parts))

    def floats(self, packed: Packed) -> Packed:
        return self._plan.floats(packed)

    def weights_done(self) -> None:
        """Nothing to do."""


def bytes_read(ops: TrafficOps, decoder: Decoder) -> int:
    """Bytes of weights that one token reads in a model that was built with `ops`."""
    graph: Graph = ops.record(decoder.groups)
    decoder.head(decoder.hidden(NO_BATCH))
    ops.graph = None
    return sum(map(_read, graph.nodes))


def float_products(ops: TrafficOps, decoder: Decoder) -> list[Product]:
    """The products of a few rows with matrices that are kept as floats, each once, for a model that
    was built with `ops`."""
    graph: Graph = ops.record(decoder.groups)
    graph.results = (decoder.head(decoder.hidden(NO_BATCH)),)
    ops.graph = None
    found: dict[Product, None] = {}
    for node in fused(graph, FUSIONS)[0].nodes:
        if node.op == "product" and node.args[1].held == ops.dtype:
            weight: Weight = node.args[1]
            gated, dtype = node.options.get("gated") is not None, DTYPES[ops.dtype]
            for few in FEW:
                found[Product(few, weight.rows, weight.cols, gated, dtype)] = None
    return list(found)


def _read(node: Node) -> int:
    if node.op in _WHOLE:
        weight: Weight = node.args[1]
        return weight.nbytes
    if node.op == "experts":
        _, ids, _, up, down, _ = node.args
        assert isinstance(ids, Value)
        each: int = sum(weight.nbytes // weight.count for weight in (up, down))
        return ids.width * each
    if node.op == "embed":
        table: Weight = node.args[0]
        return table.nbytes // table.rows
    return 0
