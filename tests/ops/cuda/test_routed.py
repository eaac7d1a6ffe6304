"""A router in two launches: against float64, and against its parts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from rbee_worker.ops import Routing, Weight
from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.cuda.fusions import FUSIONS
from rbee_worker.ops.cuda.kernels.experts.route import route
from rbee_worker.ops.cuda.kernels.experts.routed import MOST_ROWS, routed
from rbee_worker.ops.cuda.matrix import DeviceMatrix, quantized
from rbee_worker.ops.graph.fusion import fused
from rbee_worker.ops.graph.graph import Value
from tests.ops.cuda.near import BOUNDS, Recorder, error, randn
from tests.ops.reference.test_experts import ROUTINGS, by_hand, wide

pytestmark = pytest.mark.usefixtures("poisoned")
CASES = {
    "mixtral": (ROUTINGS["mixtral"], 16),
    "qwen 3": (Routing(8, normalise=True), 128),
    "deepseek v3": (ROUTINGS["deepseek v3"], 16),
    "phi": (ROUTINGS["phi"], 16),
    "three groups": (Routing(5, groups=3, top_groups=2), 21),
}


@pytest.mark.usefixtures("rows_alike")
@pytest.mark.parametrize("name", CASES)
def test_against_float64_and_against_its_parts(
    name: str, device: str, dtypes: list[torch.dtype]
) -> None:
    """The norm in float64, the logits from its rounded result; the choice as `route` makes it."""
    routing, count = CASES[name]
    k = 40
    for dtype in dtypes:
        x, w = randn(2, k, seed=1, dtype=dtype), randn(count, k, seed=2, dtype=dtype, scale=0.4)
        gain = randn(k, seed=3).abs()
        biased = routing.score != "sparsemixer"
        more: dict[str, Any] = {
            "bias": randn(count, seed=4) if biased else None,
            "scales": randn(count, seed=5).abs(),
            "norm": (gain, 1e-5),
            "programs": 4,
        }
        normed, ids, weights = routed(x, w, routing, **more)
        x64 = x.double()
        want = x64 / (x64.square().mean(1, keepdim=True) + 1e-5).sqrt() * gain.double()
        assert error(normed, want) < BOUNDS[dtype]
        logits = normed.double() @ w.double().T
        chosen, exact = route(logits.float(), routing, more["bias"], more["scales"])
        assert torch.equal(ids, chosen)
        torch.testing.assert_close(weights, exact, rtol=2e-5, atol=0)
        alone = routed(x[1:], w, routing, **more)
        for got, whole in zip(alone, (normed, ids, weights), strict=True):
            assert torch.equal(got[0], whole[1])  # the same bits alone


@pytest.mark.parametrize("form", ["floats", "f8"])
@pytest.mark.parametrize("rows", [2, MOST_ROWS + 1])
def test_as_an_operation(form: str, rows: int, device: str) -> None:
    """In two launches and, for more rows, in three; without a norm, with a bias of the logits."""
    ops, routing = DeviceOps(device, "f32", pdl=False), Routing(2, normalise=True)
    x, w, more = randn(rows, 256, seed=6), randn(6, 256, seed=7, scale=0.1), randn(6, seed=8)
    dense, scales = (w, None) if form == "floats" else quantized(w)
    weight = Weight(DeviceMatrix(6, 256, dense, scales=scales), 6, 256, "F32", form, 0)
    exact = dense.double() * (1.0 if scales is None else scales.double()[:, None])
    how: dict[str, Any] = {"norm": None, "bias": None, "scales": None}
    given, ids, weights = ops.routed(x, weight, more, routing, **how)
    assert torch.equal(given, x)
    logits = wide((x.double() @ exact.T + more.double()).cpu())
    if form == "f8" and rows > MOST_ROWS:
        return  # activations are in 8 bits then: `test_eight_bits`
    for row in range(rows):
        want = by_hand(np.asarray(logits[row]), routing)
        assert ids[row].tolist() == sorted(want)
        assert weights[row].tolist() == pytest.approx([want[e] for e in sorted(want)], rel=1e-5)


def test_no_rows(device: str) -> None:
    x, w = torch.zeros(0, 8, device=device), torch.zeros(4, 8, device=device)
    normed, ids, weights = routed(x, w, Routing(2), norm=(None, 1e-5))
    assert normed.shape == (0, 8)
    assert ids.shape == weights.shape == (0, 2)


def test_in_a_graph() -> None:
    """With the norm that experts use too, with a norm of its own, and without one."""
    w = Weight(DeviceMatrix(6, 8, randn(6, 8, seed=1)), 6, 8, "F32", "f32", 0)
    up, down = (Weight(None, *shape, "F32", "f32", 0, 6) for shape in ((16, 8), (8, 8)))
    routing = Routing(2)
    for own, shared, norm in ((True, False, True), (False, True, True), (False, False, False)):
        ops, x = Recorder(), Value(8)
        graph = ops.record((), x)
        normed = ops.rms_norm(x, None, 1e-5) if own or shared else x
        ids, weights = ops.route(ops.logits(normed, w), routing)
        graph.results = (ops.experts(normed if shared else x, ids, weights, up, down, "silu"),)
        whole, counts = fused(graph, FUSIONS)
        assert [node.op for node in whole.nodes] == ["routed", "experts"]
        node = whole.nodes[0]
        assert node.args == (x, w, None, routing)
        assert node.options["norm"] == ((None, 1e-5) if norm else None)
        assert (node.outputs[0] is normed) == shared
        assert counts["norm + router"] == 1
