"""Routing on the device against the reference: equal ids, weights within rounding."""

from __future__ import annotations

import pytest
import torch

from rbee_worker.ops import Routing
from rbee_worker.ops.cuda.kernels.experts.route import route
from rbee_worker.ops.reference import experts as reference
from tests.ops.reference.test_experts import ROUTINGS, by_hand, wide

WIDE = {
    "qwen 3": Routing(8, normalise=True),
    "kimi": Routing(8, "sigmoid", True, scale=2.4),
    "three groups": Routing(5, groups=3, top_groups=2),
    "sixteen": Routing(16, normalise=True),
}


def logits_of(n: int, count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, count, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.usefixtures("rows_alike")
@pytest.mark.parametrize(
    ("name", "count"),
    [
        *((n, 16) for n in ROUTINGS),
        ("qwen 3", 128),
        ("kimi", 384),
        ("three groups", 21),
        ("sixteen", 512),
        ("deepseek v3", 256),
    ],
)
def test_routing(name: str, count: int, device: str) -> None:
    r = {**ROUTINGS, **WIDE}[name]
    n = 7 if count < 100 else 2
    logits = logits_of(n, count)
    bias = None if r.score == "sparsemixer" else logits_of(1, count, 1)[0]
    scales = logits_of(1, count, 2)[0].abs()
    for how in ({}, {"bias": bias}, {"scales": scales}):
        want, weights = reference.route(logits, r, how.get("bias"), how.get("scales"))
        on = {key: None if v is None else v.to(device) for key, v in how.items()}
        got = route(logits.to(device), r, **on)
        assert got[0].dtype == torch.int32
        assert torch.equal(got[0].cpu().long(), want)
        torch.testing.assert_close(got[1].cpu(), weights, rtol=5e-6, atol=0)
        for rows in (slice(0, 1), slice(n - 1, n)):
            part = route(logits[rows].to(device), r, **on)
            assert torch.equal(part[0], got[0][rows])
            assert torch.equal(part[1], got[1][rows])


@pytest.mark.parametrize("name", ["mixtral", "deepseek v3", "phi, wide"])
def test_routing_equals_float64(name: str, device: str) -> None:
    r, logits = ROUTINGS[name], logits_of(9, 16, 3)
    ids, weights = route(logits.to(device), r)
    for row in range(9):
        want = by_hand(wide(logits[row]), r)
        assert ids[row].tolist() == sorted(want)
        assert weights[row].tolist() == pytest.approx([want[e] for e in sorted(want)], rel=2e-6)


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_ties_and_odd_numbers(score: str, device: str) -> None:
    """Ties go to the lower id; rows of nan choose somebody, and nobody else is touched."""
    inf = float("inf")
    logits = torch.tensor(
        [
            [1.0, 3.0, 3.0, 3.0, 0.0, 3.0],
            [0.0, -0.0, 0.0, 0.0, -0.0, 0.0],
            [float("nan")] * 6,
            [30.0, 31.0, 0, 0, 0, 0],
            [-inf, -inf, 1.0, -inf, -inf, -inf],
        ]
    )
    sure = [0, 1, 3, 4]
    for r in (
        Routing(2, score),  # type: ignore[arg-type]
        Routing(2, score, groups=3),  # type: ignore[arg-type]
        Routing(2, score, groups=2),  # type: ignore[arg-type]
    ):
        want, weights = reference.route(logits[sure], r, None, None)
        ids, found = (t.cpu() for t in route(logits.to(device), r))
        assert torch.equal(ids[sure].long(), want)
        torch.testing.assert_close(found[sure], weights, rtol=5e-6, atol=0)
        lost = ids[2].tolist()
        assert 0 <= lost[0] < lost[1] < 6
        assert found[2].isnan().all()


@pytest.mark.usefixtures("rows_alike")
def test_many_rows_equal_each_alone(device: str) -> None:
    """Few rows are ranked in another way than many; sums of weights may have another order."""
    logits = logits_of(66, 16).to(device)
    ids, weights = route(logits, WIDE["qwen 3"])
    for rows in (slice(0, 5), slice(60, 66)):
        part = route(logits[rows], WIDE["qwen 3"])
        assert torch.equal(part[0], ids[rows])
        torch.testing.assert_close(part[1], weights[rows], rtol=1e-6, atol=0)


def test_router_logits_in_half_precision_and_in_part_of_a_row(device: str) -> None:
    logits = logits_of(5, 40).half()
    want, weights = reference.route(logits[:, 8:24].float(), ROUTINGS["qwen"], None, None)
    ids, found = route(logits.to(device)[:, 8:24], ROUTINGS["qwen"])
    assert torch.equal(ids.cpu().long(), want)
    torch.testing.assert_close(found.cpu(), weights, rtol=5e-6, atol=0)


def test_no_rows(device: str) -> None:
    ids, weights = route(torch.zeros(0, 8, device=device), ROUTINGS["mixtral"])
    assert ids.shape == weights.shape == (0, 2)
