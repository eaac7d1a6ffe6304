"""Which launches ask the L2 cache for the matrix of the next product; see `kernels/prefetch.py`.

A launch that can do so takes the option `prefetch`: a part of that matrix. Today these are
`product`, where it has one row (`gemv`), and `product_scan`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from rbee_worker.ops.cuda.kernels.prefetch import part_of
from rbee_worker.ops.cuda.matrix import operand
from rbee_worker.ops.graph.fusion import Links, links
from rbee_worker.ops.graph.graph import Graph, Node, replaced

_PRODUCTS = ("product", "product_conv")


def with_prefetches(graph: Graph) -> Graph:
    """The lowered graph, in which small launches ask for the next large matrix: those between the
    two large products of a Mamba's layer."""
    changes: dict[Node, list[Node]] = {}
    found = links(graph)
    for at, node in enumerate(graph.nodes):
        asking = [*_before(node, found), node] if node.op == "product_scan" else []
        matrix = next_matrix(graph.nodes[at + 1 :]) if asking else None
        if matrix is None:
            continue
        for part, one in enumerate(asking):
            changes[one] = [_with(one, {"prefetch": part_of(matrix, part, len(asking))})]
    return replace(graph, nodes=replaced(graph.nodes, changes))


def next_matrix(nodes: Sequence[Node]) -> Tensor | None:
    """The matrix that the first product of these reads as floats, in 16 or 8 bits; None: it reads
    another form, or there is none."""
    product = next((node for node in nodes if node.op in _PRODUCTS), None)
    if product is None or operand(product.args[1].data) is None:
        return None
    matrix: Tensor | None = product.args[1].data.dense
    return matrix if operand(product.args[1].data) != "planes" else None


def _before(scan: Node, found: Links) -> list[Node]:
    """The product from whose result a scan has its narrow dt."""
    split = found.maker(scan.args[1], "split")
    product = None if split is None else found.maker(split.args[0], "product")
    return [] if product is None else [product]


def _with(node: Node, options: Mapping[str, Any]) -> Node:
    return Node(node.op, node.args, {**node.options, **options}, node.outputs)
