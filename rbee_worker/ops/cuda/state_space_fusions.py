"""Fusions of state spaces: a product and the convolution of a part of it, and the product before
Mamba's scan. They come after all that look at products, which these then are no more."""

from __future__ import annotations

from typing import Any

from rbee_worker.ops.cuda.kernels.recurrence.product_scan import MOST_RANK
from rbee_worker.ops.cuda.matrix import operand
from rbee_worker.ops.graph.fusion import Change, Fusion, Links
from rbee_worker.ops.graph.graph import Node


def _product_conv(node: Node, links: Links) -> Change | None:
    """A product, maybe with a norm before it, whose split has a part that is convolved."""
    if node.op != "causal_conv" or {"before", "after"} & set(node.options):
        return None
    x, taps, taps_bias, where, name, batch = node.args
    split = links.maker(x, "split")
    if split is None or split.options["heads"] != 1 or links.only_user(x) is not node:
        return None
    whole, widths = split.args
    product = links.maker(whole, "product")
    if product is None or links.only_user(whole) is not split or set(product.options) - {"norm"}:
        return None
    if operand(product.args[1].data) not in ("floats", "f8"):
        return None
    part = split.outputs.index(x)
    args = (*product.args, widths, part, taps, taps_bias, where, name, batch)
    options: dict[str, Any] = {**product.options, "kind": node.options["kind"]}
    outputs = tuple(node.outputs[0] if one is x else one for one in split.outputs)
    return {product: [], split: [Node("product_conv", args, options, outputs)], node: []}


def _product_scan(node: Node, links: Links) -> Change | None:
    """Mamba's scan and the product that makes its dt, if nothing is between narrow dt and product:
    Falcon-Mamba and Jamba have a norm there."""
    if node.op != "selective_scan":
        return None
    x, dt, *rest = node.args
    product = links.maker(dt, "product")
    if product is None or links.only_user(dt) is not node or product.options:
        return None
    narrow, weight, bias = product.args
    if weight.cols > MOST_RANK or operand(weight.data) != "floats":
        return None
    new = Node("product_scan", (x, narrow, weight, bias, *rest), {}, node.outputs)
    return {product: [], node: [new]}


STATE_SPACES = (
    Fusion("product + split + convolution", _product_conv),
    Fusion("product + selective scan", _product_scan),
)
