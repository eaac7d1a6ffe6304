"""Mixtures of experts in plain torch: the reference for `Ops.route` and `Ops.experts`.

Rows are independent: scores are reduced along a row, products are computed on tiles of one fixed
height, and a row's experts are added in ascending order of their ids.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from rbee_worker.ops import Activation, Routing

ROWS = 16  # height of the tiles of `product`


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """x [N, cols] times the transposed matrix [rows, cols]: [N, rows]. A row is bitwise independent
    of the others: BLAS orders its sums by the number of rows, so it always gets `ROWS` of them."""
    n = x.shape[0]
    out = x.new_empty((n, matrix.shape[0]))
    for start in range(0, n, ROWS):
        tile = x[start : start + ROWS]
        if tile.shape[0] < ROWS:
            tile = F.pad(tile, (0, 0, 0, ROWS - tile.shape[0]))
        out[start : start + ROWS] = F.linear(tile, matrix)[: n - start]
    return out


def add_bias(x: Tensor, bias: Tensor | None) -> Tensor:
    """x plus a float32 bias, rounded once."""
    return x if bias is None else (x.float() + bias).to(x.dtype)


def activate(x: Tensor, kind: Activation) -> Tensor:
    """Composed of exp, erf and tanh only: torch's fused silu and gelu use another formula for the
    last elements of a buffer, so a row's result would depend on its place."""
    if kind == "silu":
        return x / (1 + torch.exp(-x))
    if kind == "sigmoid":
        return 1 / (1 + torch.exp(-x))
    if kind == "tanh":
        return torch.tanh(x)
    if kind == "gelu":
        return 0.5 * x * (1 + torch.erf(x * 2**-0.5))
    if kind == "gelu_tanh":
        return 0.5 * x * (1 + torch.tanh((2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x)))
    if kind == "gelu_quick":
        return x / (1 + torch.exp(-1.702 * x))
    x = F.relu(x)
    return x if kind == "relu" else x.square()


def gate(gate_up: Tensor, kind: Activation, limit: float | None = None) -> Tensor:
    """act(gate) * up of float32 [N, 2 * width]; limit: see `Ops.experts`."""
    a, b = gate_up.chunk(2, dim=1)
    if limit is None:
        return activate(a, kind) * b
    return activate(a.clamp(max=limit), kind) * (b.clamp(-limit, limit) + 1)


def route(
    logits: Tensor, routing: Routing, bias: Tensor | None, scales: Tensor | None
) -> tuple[Tensor, Tensor]:
    """logits float32 [N, experts] -> ids int64 and weights float32 [N, top_k]; see `Ops.route`."""
    if routing.score == "sparsemixer":
        ids, weights = _sparsemixer(logits, routing)
    else:
        scores = _softmax(logits) if routing.score == "softmax" else activate(logits, "sigmoid")
        if bias is None and routing.groups == 1:
            choice = logits
        else:
            choice = _in_best_groups(scores if bias is None else scores + bias, routing)
        ids = _best(choice, routing.top_k).sort(dim=1).values
        weights = scores.gather(1, ids)
    if routing.normalise:
        total = weights[:, :1].clone()
        for column in range(1, routing.top_k):
            total += weights[:, column : column + 1]
        weights = weights / (total + routing.floor)
    weights = weights * routing.scale
    return ids, weights if scales is None else weights * scales[ids]


def _best(scores: Tensor, count: int) -> Tensor:
    """The columns of the `count` largest numbers in each row; the first of equal ones."""
    return scores.sort(dim=1, descending=True, stable=True).indices[:, :count]


def _softmax(logits: Tensor) -> Tensor:
    p = torch.exp(logits - logits.amax(1, keepdim=True))
    return p / p.sum(1, keepdim=True)


def _in_best_groups(scores: Tensor, routing: Routing) -> Tensor:
    """Set the scores of experts outside the best groups to -inf."""
    if routing.groups == 1:
        return scores
    by_group = scores.view(scores.shape[0], routing.groups, scores.shape[1] // routing.groups)
    most = by_group.topk(1 if routing.group_score == "best" else 2, dim=2).values
    best = _best(most[..., 0] if routing.group_score == "best" else most.sum(2), routing.top_groups)
    out = torch.ones(by_group.shape[:2], dtype=torch.bool, device=scores.device)
    out = out.scatter(1, best, False)
    return by_group.masked_fill(out[..., None], float("-inf")).flatten(1)


def _sparsemixer(logits: Tensor, routing: Routing) -> tuple[Tensor, Tensor]:
    assert routing.top_k == 2
    ids, weights = [], []
    left = logits
    for _ in range(2):
        best = _best(left, 1)
        top = left.gather(1, best)
        far = (top - logits) / torch.maximum(logits.abs(), top) > 2 * routing.jitter
        weights.append(_softmax(left.masked_fill(far, float("-inf"))).gather(1, best))
        ids.append(best)
        left = left.scatter(1, best, float("-inf"))
    both, order = torch.cat(ids, 1).sort(dim=1)
    return both, torch.cat(weights, 1).gather(1, order)


def experts(
    x: Tensor,
    ids: Tensor,
    weights: Tensor | None,
    up: Tensor,
    down: Tensor,
    kind: Activation,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    limit: float | None,
) -> Tensor:
    """x [N, cols], up [experts, rows, cols], down [experts, dim, width] -> [N, dim]; see
    `Ops.experts`. Sums are float32."""
    gated = up.shape[1] == 2 * down.shape[2]
    assert gated or (up.shape[1] == down.shape[2] and limit is None)
    out = torch.zeros((x.shape[0], down.shape[1]), device=x.device)
    for e in sorted(set(ids.flatten().tolist())):
        row, place = torch.where(ids == e)
        h = add_bias(product(x[row], up[e]), _of(up_bias, e, up)).float()
        h = gate(h, kind, limit) if gated else activate(h, kind)
        y = add_bias(product(h.to(x.dtype), down[e]), _of(down_bias, e, down)).float()
        out[row] += y if weights is None else y * weights[row, place, None]
    return out.to(x.dtype)


def _of(bias: Tensor | None, e: int, stack: Tensor) -> Tensor | None:
    return None if bias is None else bias.view(len(stack), -1)[e]
