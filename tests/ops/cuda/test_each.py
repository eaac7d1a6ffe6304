"""Elementwise operations against float64: each, several in one launch, and behind a norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.cuda.elementwise_fusions import ELEMENTWISE
from rbee_worker.ops.cuda.kernels.each import Step, each
from rbee_worker.ops.cuda.kernels.norm import norm
from rbee_worker.ops.graph.fusion import fused
from rbee_worker.ops.graph.graph import Graph, Value
from rbee_worker.ops.reference.experts import activate
from tests.ops.cuda.near import BOUNDS, DTYPES, Recorder, error, randn

pytestmark = pytest.mark.usefixtures("poisoned")


def after(x: Tensor, step: Step, y: Tensor | None) -> Tensor:
    """One step in float64."""
    y = None if y is None else y.double()
    if step.op == "clip":
        return x.clamp(-step.number, step.number)
    if step.op == "softcap":
        return step.number * torch.tanh(x / step.number)
    if step.op == "act":
        return activate(x, step.kind)  # type: ignore[arg-type]
    if step.op == "scale":
        return x * step.number
    assert y is not None
    if step.op == "add":
        return x + y
    return x * (y if step.kind == "none" else activate(y, step.kind))  # type: ignore[arg-type]


CHAINS = [
    (Step("multiply"),),
    (Step("scale", number=0.25), Step("add")),
    (Step("multiply", "silu"), Step("weigh", "sigmoid"), Step("vector"), Step("add")),
    (Step("clip", number=0.5), Step("softcap", number=0.7), Step("act", "gelu_tanh")),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("steps", CHAINS, ids=lambda steps: "+".join(s.op for s in steps))
@pytest.mark.parametrize("width", [40, 1100])
def test_steps(dtype: torch.dtype, steps: tuple[Step, ...], width: int) -> None:
    """Operands may be parts of wider rows."""
    x = randn(3, 2 * width, seed=1, dtype=dtype)[:, width:]
    want, operands = x.double(), []
    for n, step in enumerate(steps):
        y = None
        if step.takes:
            columns = 1 if step.op == "weigh" else width
            y = randn(3, columns + 5, seed=2 + n, dtype=dtype)[:, 5:]
            if step.op == "vector":
                y = randn(width, seed=2 + n)
            operands.append(y)
        want = after(want, step, y)
    assert error(each(x, operands, steps, form=dtype), want) < BOUNDS[dtype]
    assert each(x, operands, steps, form=torch.float32).dtype == torch.float32


@pytest.mark.parametrize("step", [Step("multiply", "silu"), Step("add")], ids=str)
@pytest.mark.parametrize("heads", [1, 4])
def test_a_step_behind_a_norm(step: Step, heads: int) -> None:
    x, weight = randn(3, 96, seed=1), randn(96 // heads, seed=2)
    other = randn(3, 200, seed=3)[:, 100:196]
    got, _ = norm(x, weight, 1e-5, form=torch.float32, heads=heads, then=(step, other))
    y = x.double().view(3, heads, -1)
    y = y / (y.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double()
    assert error(got, after(y.flatten(1), step, other)) < BOUNDS[torch.float32]


def test_operations_of_the_backend() -> None:
    """Alone, as `Ops` has them; a sum with float32 is float32."""
    ops = DeviceOps(str(randn(1, seed=0).device), "f16", pdl=False)
    x, y = randn(2, 40, seed=1, dtype=torch.float16), randn(2, 40, seed=2, dtype=torch.float16)
    bound, column, vector = BOUNDS[torch.float16], y[:, 7:8], randn(40, seed=3)
    assert error(ops.multiply(x, y), x.double() * y.double()) < bound
    assert error(ops.multiply(x, column), x.double() * column.double()) < bound
    assert error(ops.scale(x, vector), x.double() * vector.double()) < bound
    assert error(ops.scale(x, 0.3), x.double() * 0.3) < bound
    assert torch.equal(ops.clip(x, 0.5), x.clamp(-0.5, 0.5))
    assert ops.add(x, y, wide=True).dtype == torch.float32
    assert error(ops.add(x.float(), y), x.double() + y.double()) < BOUNDS[torch.float32]
    assert error(ops.softcap(x, 2.0), torch.tanh(x.double() / 2) * 2) < bound


def chained(make: object, *widths: int) -> list[tuple[str, object]]:
    """The operations and steps that are left of what `make` records of values of these widths."""
    ops = Recorder()
    given = [Value(width) for width in widths]
    graph: Graph = ops.record((), given[0])
    graph.results = (make(ops, *given),)  # type: ignore[operator]
    nodes = fused(graph, ELEMENTWISE)[0].nodes
    return [(n.op, n.options.get("steps", n.options.get("step"))) for n in nodes]


def test_chains_of_a_graph() -> None:
    found = chained(lambda o, x, y: o.multiply(x, o.act(y, "silu")), 8, 8)
    assert found == [("each", (Step("multiply", "silu"),))]
    found = chained(lambda o, x, y: o.add(x, o.scale(o.multiply(y, x), 0.5)), 8, 8)
    assert found == [("each", (Step("multiply"), Step("scale", number=0.5), Step("add")))]
    found = chained(lambda o, x, y: o.multiply(o.rms_norm(x, None, 1e-5), o.act(y, "silu")), 8, 8)
    assert found == [("norm_and", Step("multiply", "silu"))]
    found = chained(lambda o, x, y: o.add(x, o.layer_norm(y, None, None, 1e-5)), 8, 8)
    assert found == [("norm_and", Step("add"))]
    found = chained(lambda o, x, y: o.add(o.multiply(x, y), x), 8, 1)
    assert found == [("each", (Step("weigh"), Step("add")))]
    # what somebody else uses too is computed alone; no more than four in one launch
    found = chained(lambda o, x: o.multiply(z := o.act(x, "relu"), z), 8)
    assert [op for op, _ in found] == ["each", "each"]
    long = chained(lambda o, x: o.clip(o.clip(o.clip(o.clip(o.clip(x, 5), 4), 3), 2), 1), 8)
    assert sum(len(steps) for _, steps in long) == 5  # type: ignore[arg-type]
    assert len(long) == 2
