"""The table of fusions: which chains of operations one launch computes.

`product` is a linear map with what precedes and follows it (`DeviceOps.product`); `attend_packed`
is attention from the packed projection on (`DeviceOps.attend_packed`); `routed` is a router
(`MixtureOps.routed`).
"""

from __future__ import annotations

from typing import Any

from rbee_worker.ops.cuda.elementwise_fusions import ELEMENTWISE
from rbee_worker.ops.cuda.matrix import operand
from rbee_worker.ops.cuda.packed_products import Ahead
from rbee_worker.ops.cuda.state_space_fusions import STATE_SPACES
from rbee_worker.ops.graph.fusion import Change, Fusion, Links
from rbee_worker.ops.graph.graph import Node, Value

_FREE = ("residual", "act", "gated")  # what a product does at its end, one of act and gated


def _as_product(node: Node, links: Links) -> Change | None:
    """Every linear map, so that the others need to look for one kind of node only."""
    if node.op == "linear":
        return {node: [Node("product", node.args, {}, node.outputs)]}
    if node.op == "logits":
        return {node: [Node("product", node.args, {"form": "f32"}, node.outputs)]}
    return None


def _gated(node: Node, links: Links) -> Change | None:
    """act(gate) * up of a product's halves."""
    return _after(node, links, "gated", "gated")


def _act(node: Node, links: Links) -> Change | None:
    """An activation of a product."""
    return _after(node, links, "act", "act")


def _after(node: Node, links: Links, op: str, option: str) -> Change | None:
    if node.op != op:
        return None
    x, kind = node.args
    product = links.maker(x, "product")
    if product is None or links.only_user(x) is not node or set(product.options) & set(_FREE):
        return None
    whole = Node("product", product.args, {**product.options, option: kind}, node.outputs)
    return {product: [], node: [whole]}


def _residual(node: Node, links: Links) -> Change | None:
    """A sum with a product."""
    if node.op != "add":
        return None
    for x, other in (node.args, node.args[::-1]):
        product = links.maker(x, "product")
        if product is None or links.only_user(x) is not node or "residual" in product.options:
            continue
        assert isinstance(other, Value)
        if other is x:
            continue
        form = node.outputs[0].form
        options = {**product.options, "residual": other, "form": form}
        return {product: [], node: [Node("product", product.args, options, node.outputs)]}
    return None


def _experts(node: Node, links: Links) -> Change | None:
    """A sum with the result of experts, both in the compute type."""
    if node.op != "add" or any(one.form != "compute" for one in (*node.args, *node.outputs)):
        return None
    for x, other in (node.args, node.args[::-1]):
        maker = links.maker(x, "experts")
        if maker is None or links.only_user(x) is not node or "residual" in maker.options:
            continue
        if other is x:
            continue
        options = {**maker.options, "residual": other}
        return {maker: [], node: [Node("experts", maker.args, options, node.outputs)]}
    return None


def _norm(node: Node, links: Links) -> Change | None:
    """An RMS norm whose only use is a product."""
    if node.op != "rms_norm" or node.options["heads"] != 1:
        return None
    x, weight, eps = node.args
    user = links.only_user(node.outputs[0])
    if user is None or user.op != "product" or user.args[0] is not node.outputs[0]:
        return None
    options = {**user.options, "norm": (weight, eps)}
    return {node: [], user: [Node("product", (x, *user.args[1:]), options, user.outputs)]}


def _router(node: Node, links: Links) -> Change | None:
    """A router's product and the choice, with the RMS norm before them, whose result others use."""
    if node.op != "route":
        return None
    logits, routing = node.args
    product = links.maker(logits, "product")
    if product is None or links.only_user(logits) is not node:
        return None
    if set(product.options) & {*_FREE, "ahead"} or _operand(product) not in ("floats", "f8"):
        return None
    x, weight, logits_bias = product.args
    options = {**node.options, "norm": product.options.get("norm")}
    norm = links.maker(x, "rms_norm")
    if options["norm"] is None and norm is not None and norm.options["heads"] == 1:
        source, gain, eps = norm.args
        options["norm"] = (gain, eps)
        new = Node("routed", (source, weight, logits_bias, routing), options, (x, *node.outputs))
        return {norm: [new], product: [], node: []}
    outputs = Value(x.width), *node.outputs
    new = Node("routed", (x, weight, logits_bias, routing), options, outputs)
    return {product: [], node: [new]}


def _packed_attention(node: Node, links: Links) -> Change | None:
    """Attention of a projection's parts, with norms of heads and rotary positions before it."""
    if node.op != "attend" or not node.options["causal"] or None in node.args[1:3]:
        return None
    if node.options["distances"] is not None:
        return None
    q, k, v, where, batch = node.args
    taken: list[Node] = []
    q, q_rope = _through(q, "rope", links, taken)
    k, k_rope = _through(k, "rope", links, taken)
    q, q_norm = _through(q, "rms_norm", links, taken)
    k, k_norm = _through(k, "rms_norm", links, taken)
    split = links.maker(q, "split")
    if split is None or split.options["heads"] != 1 or split.outputs != (q, k, v):
        return None
    if any(links.only_user(part) is None for part in split.outputs):
        return None
    heads = node.options["heads"]
    head = q.width // heads
    kv_heads = k.width // head
    if k.width % head or v.width != k.width:
        return None
    specs = {rope.args[1] for rope in (q_rope, k_rope) if rope is not None}
    if len(specs) > 1 or (q_rope is None) != (k_rope is None):
        return None
    if (q_norm is None) != (k_norm is None):
        return None
    if q_norm is not None and k_norm is not None and q_norm.args[2] != k_norm.args[2]:
        return None  # one epsilon for both
    for norm, count in ((q_norm, heads), (k_norm, kv_heads)):
        if norm is not None and (norm.options["heads"] != count or norm.args[1] is None):
            return None
    options: dict[str, Any] = {
        **node.options,
        "kv_heads": kv_heads,
        "spec": specs.pop() if specs else None,
        "q_norm": None if q_norm is None else tuple(q_norm.args[1:]),
        "k_norm": None if k_norm is None else tuple(k_norm.args[1:]),
    }
    del options["causal"], options["distances"]
    packed = Node("attend_packed", (split.args[0], where, batch), options, node.outputs)
    return {**dict.fromkeys((split, *taken), ()), node: [packed]}


def _through(value: Value, op: str, links: Links, taken: list[Node]) -> tuple[Value, Node | None]:
    """The input of the `op` that makes `value` for one user, and that node; or `value`, None."""
    node = links.maker(value, op)
    if node is None or links.only_user(value) is None:
        return value, None
    taken.append(node)
    source = node.args[0]
    assert isinstance(source, Value)
    return source, node


def _ahead(node: Node, links: Links) -> Change | None:
    """A product whose result the next product takes in 8 bits, or as floats after a norm: it makes
    that form too."""
    if node.op != "product" or "ahead" in node.options:
        return None
    kind = _operand(node)
    for user in links.users.get(node.outputs[0], ()):
        if user.op != "product" or user.args[0] is not node.outputs[0]:
            continue
        norm = user.options.get("norm")
        if kind == _operand(user) and (kind == "planes" or (kind == "floats" and norm is not None)):
            options = {**node.options, "ahead": Ahead(norm)}
            return {node: [Node(node.op, node.args, options, node.outputs)]}
    return None


def _operand(product: Node) -> str | None:
    return operand(product.args[1].data)


FUSIONS = (
    Fusion("linear as product", _as_product),
    Fusion("product + gated activation", _gated),
    Fusion("product + activation", _act),
    Fusion("product + residual", _residual),
    Fusion("experts + residual", _experts),
    Fusion("norm + product", _norm),
    Fusion("norm + router", _router),
    Fusion("product + the form that the next one takes", _ahead),
    Fusion("split + head norms + rope + attention", _packed_attention),
    *ELEMENTWISE,
    *STATE_SPACES,
)
