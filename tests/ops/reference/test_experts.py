"""Routing and experts of the reference against numpy in float64, written one token at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor

from rbee_worker.ops import Routing, Weight
from rbee_worker.ops.reference.ops import ReferenceOps
from tests.ops.reference.test_ops import pack, threads, wide

__all__ = ["threads"]  # run by every test here
F64 = npt.NDArray[np.float64]

ROUTINGS = {
    "mixtral": Routing(2, normalise=True),
    "qwen": Routing(4, scale=1.0),
    "deepseek v2": Routing(3, scale=16.0, groups=4, top_groups=2),
    "deepseek v3": Routing(
        4, "sigmoid", True, scale=2.5, groups=4, top_groups=2, group_score="best two"
    ),
    "llama 4": Routing(1, "sigmoid"),
    "lfm 2, a high floor": Routing(3, "sigmoid", True, floor=0.25),
    "phi": Routing(2, "sparsemixer", jitter=0.01),
    "phi, wide": Routing(2, "sparsemixer", jitter=0.4),
}


def by_hand(logits: F64, r: Routing, bias: F64 | None = None) -> dict[int, float]:
    """Expert -> weight of one token."""
    count = len(logits)
    if r.score == "sparsemixer":
        chosen: dict[int, float] = {}
        for _ in range(2):
            rest = [e for e in range(count) if e not in chosen]
            best = max(rest, key=lambda e: (logits[e], -e))
            near = [
                e
                for e in rest
                if (logits[best] - logits[e]) / max(abs(logits[e]), logits[best]) <= 2 * r.jitter
            ]
            chosen[best] = 1 / sum(np.exp(logits[e] - logits[best]) for e in near)
        return chosen
    if r.score == "softmax":
        scores = np.exp(logits) / np.exp(logits).sum()
    else:
        scores = 1 / (1 + np.exp(-logits))
    choice = scores if bias is None else scores + bias
    size = count // r.groups
    groups = [choice[g * size : (g + 1) * size] for g in range(r.groups)]
    worth = [np.sort(g)[-1 if r.group_score == "best" else -2 :].sum() for g in groups]
    best_groups = sorted(range(r.groups), key=lambda g: (-worth[g], g))[: r.top_groups]
    allowed = [e for e in range(count) if r.groups == 1 or e // size in best_groups]
    picked = sorted(allowed, key=lambda e: (-choice[e], e))[: r.top_k]
    total = sum(scores[e] for e in picked) + r.floor if r.normalise else 1.0
    return {e: scores[e] / total * r.scale for e in picked}


BIASED = [name for name, r in ROUTINGS.items() if r.score != "sparsemixer"]


@pytest.mark.parametrize(
    ("name", "biased"), [*((n, False) for n in ROUTINGS), *((n, True) for n in BIASED)]
)
def test_routing(name: str, biased: bool) -> None:
    r = ROUTINGS[name]
    logits, bias = torch.randn(67, 16) * 2, torch.randn(16) if biased else None
    ids, weights = ReferenceOps().route(logits, r, bias=bias)
    assert (ids.diff(dim=1) > 0).all()
    for row in range(67):
        want = by_hand(wide(logits[row]), r, None if bias is None else wide(bias))
        assert ids[row].tolist() == sorted(want)
        assert np.allclose(wide(weights[row]), [want[e] for e in sorted(want)], rtol=2e-6)
    for rows in (slice(0, 1), slice(66, 67), slice(9, 13), slice(1, 66)):
        part = ReferenceOps().route(logits[rows], r, bias=bias)
        assert torch.equal(part[0], ids[rows])
        assert torch.equal(part[1], weights[rows])


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_ties_go_to_the_lower_id(score: str) -> None:
    logits = torch.tensor([[1.0, 3.0, 3.0, 3.0, 0.0, 3.0], [0.0] * 6])
    r = Routing(2, score)  # type: ignore[arg-type]
    ids, _ = ReferenceOps().route(logits, r)
    assert ids.tolist() == [[1, 2], [0, 1]]
    ids, _ = ReferenceOps().route(logits, Routing(2, score, groups=3))  # type: ignore[arg-type]
    assert ids.tolist() == [[0, 1], [0, 1]]


def test_logits_that_a_sigmoid_cannot_tell_apart() -> None:
    """Both scores round to 1; the greater logit still wins."""
    logits = torch.tensor([[30.0, 31.0, 0.0]])
    assert float(torch.sigmoid(logits)[0, 0]) == float(torch.sigmoid(logits)[0, 1]) == 1.0
    ids, weights = ReferenceOps().route(logits, Routing(1, "sigmoid"))
    assert (ids.tolist(), weights.tolist()) == ([[1]], [[1.0]])


def test_factors_on_chosen_experts() -> None:
    logits, scales = torch.randn(9, 8), torch.rand(8)
    ids, plain = ReferenceOps().route(logits, Routing(2, normalise=True))
    _, scaled = ReferenceOps().route(logits, Routing(2, normalise=True), scales=scales)
    assert torch.equal(scaled, plain * scales[ids])


def stack(ops: ReferenceOps, *parts: Tensor) -> Weight:
    """[experts, rows, cols] tensors, each expert's rows one after another."""
    return ops.stack([[pack(p[e]) for p in parts] for e in range(len(parts[0]))])


def silu(x: F64) -> F64:
    return x / (1 + np.exp(-x))


@pytest.mark.parametrize("form", ["gated", "plain", "clamped"])
@pytest.mark.parametrize("weighted", [True, False])
def test_experts(form: str, weighted: bool) -> None:
    count, dim, width, n, top = 6, 40, 24, 37, 3
    ops = ReferenceOps()
    gate, up = torch.randn(count, width, dim) * 0.3, torch.randn(count, width, dim) * 0.3
    down = torch.randn(count, dim, width) * 0.3
    up_bias = torch.randn(count, width if form == "plain" else 2 * width)
    down_bias = torch.randn(count, dim)
    x = torch.randn(n, dim)
    ids = torch.rand(n, count).argsort(1)[:, :top].sort(1).values
    ids[5:9] = torch.tensor([0, 2, 5])  # several rows of one tile share their experts
    weights = torch.rand(n, top)
    first = stack(ops, up) if form == "plain" else stack(ops, gate, up)
    how: dict[str, Any] = {
        "up_bias": ops.vector([pack(up_bias)]),
        "down_bias": ops.vector([pack(down_bias)]),
        "limit": 0.7 if form == "clamped" else None,
    }
    given = weights if weighted else None
    kind = "gelu_quick" if form == "clamped" else "silu"
    run = lambda r: ops.experts(  # noqa: E731
        x[r], ids[r], None if given is None else given[r], first, stack(ops, down), kind, **how
    )
    got = run(slice(None))
    want = np.zeros((n, dim))
    for row in range(n):
        for place, e in enumerate(ids[row].tolist()):
            u = wide(up[e]) @ wide(x[row])
            if form == "plain":
                h = silu(u + wide(up_bias[e]))
            else:
                g = wide(gate[e]) @ wide(x[row]) + wide(up_bias[e, :width])
                u = u + wide(up_bias[e, width:])
                if form == "gated":
                    h = silu(g) * u
                else:
                    g = np.minimum(g, 0.7)
                    h = g / (1 + np.exp(-1.702 * g)) * (np.clip(u, -0.7, 0.7) + 1)
            y = wide(down[e]) @ h + wide(down_bias[e])
            want[row] += y * (float(weights[row, place]) if weighted else 1.0)
    assert np.abs(wide(got) - want).max() < 2e-5
    for rows in (slice(0, 1), slice(36, 37), slice(5, 12), slice(1, 36), slice(8, 9)):
        assert torch.equal(run(rows), got[rows])


def test_bfloat16_experts_add_in_float32() -> None:
    ops = ReferenceOps("cpu", "bf16")
    up, down = torch.randn(3, 16, 32), torch.randn(3, 32, 16)
    x = torch.randn(5, 32).bfloat16()
    ids = torch.tensor([[0, 1, 2]] * 5)
    held = stack(ops, up), stack(ops, down)
    got = ops.experts(x, ids, None, *held, "relu")
    alone = [ops.experts(x, ids[:, e : e + 1], None, *held, "relu").double() for e in range(3)]
    want = sum(alone)
    assert got.dtype == torch.bfloat16
    assert float((got.double() - want).norm() / want.norm()) < 6e-3


def test_no_rows_at_all() -> None:
    ops = ReferenceOps()
    ids, weights = ops.route(torch.zeros(0, 8), ROUTINGS["deepseek v3"])
    assert ids.shape == weights.shape == (0, 4)
    ids, weights = ops.route(torch.zeros(0, 8), ROUTINGS["phi"])
    assert ids.shape == (0, 2)
    first, second = stack(ops, torch.randn(8, 48, 32)), stack(ops, torch.randn(8, 32, 24))
    assert ops.experts(torch.zeros(0, 32), ids, weights, first, second, "silu").shape == (0, 32)
