"""Fusions of elementwise operations: chains of them, and one with the norm before it."""

from __future__ import annotations

from typing import Any

from rbee_worker.ops.cuda.kernels.each import MOST_STEPS, Step
from rbee_worker.ops.graph.fusion import Change, Fusion, Links
from rbee_worker.ops.graph.graph import Node, Value

_PARTNERS = ("multiply", "add")  # steps whose operand and x may change places


def _as_each(node: Node, links: Links) -> Change | None:
    """Every elementwise operation, so that the others need to look for one kind of node only."""
    args, step = node.args[:1], None
    if node.op in ("add", "multiply"):
        args = node.args
        one_column = args[1].width == 1 and args[0].width != 1
        step = Step("weigh" if one_column else "add" if node.op == "add" else "multiply")
    elif node.op == "scale":
        if isinstance(node.args[1], (int, float)):
            step = Step("scale", number=float(node.args[1]))
        else:
            args, step = node.args, Step("vector")
    elif node.op == "clip":
        step = Step("clip", number=node.args[1])
    elif node.op == "softcap":
        step = Step("softcap", number=node.args[1])
    elif node.op == "act":
        step = Step("act", node.args[1])
    if step is None:
        return None
    return {node: [_each(args, (step,), node)]}


def _each(args: tuple[Any, ...], steps: tuple[Step, ...], end: Node) -> Node:
    """The steps, ending with what `end` makes."""
    return Node("each", args, {"steps": steps, "form": end.outputs[0].form}, end.outputs)


def _chain(node: Node, links: Links) -> Change | None:
    """An elementwise operation and the one before it."""
    if node.op != "each":
        return None
    (x, *operands), steps = node.args, node.options["steps"]
    before = _own(x, node, links)
    if before is not None and len(before.options["steps"]) + len(steps) <= MOST_STEPS:
        merged = (*before.options["steps"], *steps)
        return {before: [], node: [_each((*before.args, *operands), merged, node)]}
    step: Step = steps[0]
    if step.op not in (*_PARTNERS, "weigh") or step.kind != "none":
        return None
    before = _own(operands[0], node, links)
    if before is None:
        return None
    other, first = before.options["steps"], before.args[0]
    if len(other) == 1 and other[0].op == "act" and step.op != "add":
        acted = (step._replace(kind=other[0].kind), *steps[1:])
        return {before: [], node: [_each((x, first, *operands[1:]), acted, node)]}
    if step.op in _PARTNERS and len(other) + len(steps) <= MOST_STEPS:
        merged = (*other, *steps)
        return {before: [], node: [_each((*before.args, x, *operands[1:]), merged, node)]}
    return None


def _own(value: object, user: Node, links: Links) -> Node | None:
    """The elementwise operation that makes `value` for nobody but `user`."""
    maker = links.maker(value, "each")
    if maker is None or not isinstance(value, Value) or links.only_user(value) is not user:
        return None
    return maker


def _norm_and(node: Node, links: Links) -> Change | None:
    """A norm, and its product (with an activation) or sum with something of the same width."""
    if node.op != "each" or len(node.options["steps"]) != 1:
        return None
    (step,) = node.options["steps"]
    if step.op not in _PARTNERS:
        return None
    x, y = node.args
    for normed, other in ((x, y), (y, x)):
        if normed is y and step.kind != "none":
            continue
        for op in ("rms_norm", "layer_norm"):
            norm = links.maker(normed, op)
            if norm is None or links.only_user(normed) is not node:
                continue
            source, weight, *bias, eps = norm.args
            options = {
                "layer": op == "layer_norm",
                "heads": norm.options["heads"],
                "step": step,
                "form": node.outputs[0].form,
            }
            args = (source, other, weight, bias[0] if bias else None, eps)
            return {norm: [], node: [Node("norm_and", args, options, node.outputs)]}
    return None


def _conv(node: Node, links: Links) -> Change | None:
    """A convolution between products with something of the same width (LFM2, Based)."""
    if node.op != "causal_conv" or {"before", "after"} & set(node.options):
        return None
    x, *rest = node.args
    changes: dict[Node, list[Node]] = {}
    options, last = dict(node.options), node
    before = _own(x, node, links)
    if before is not None and before.options["steps"] == _PRODUCT:
        x, options["before"] = before.args
        changes[before] = []
    after = links.only_user(node.outputs[0])
    if after is not None and after.op == "each" and after.options["steps"] == _PRODUCT:
        one, other = after.args
        options["after"] = other if one is node.outputs[0] else one
        changes[node], last = [], after
    if last is node and not changes:
        return None
    new = Node("causal_conv", (x, *rest), options, last.outputs)
    return {**changes, last: [new]}


_PRODUCT = (Step("multiply"),)

ELEMENTWISE = (
    Fusion("elementwise operations as each", _as_each),
    Fusion("elementwise operations in a chain", _chain, repeats=True),
    Fusion("norm + product or sum", _norm_and),
    Fusion("product + convolution + product", _conv),
)
