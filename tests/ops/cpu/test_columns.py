"""Columns, gates and positions of CpuOps equal the reference."""

import pytest
import torch

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.reference.ops import ReferenceOps
from tests.ops.cpu.eager import Eager
from tests.ops.cpu.test_backend import close, numbers
from tests.ops.cpu.test_linear import random_rows
from tests.ops.reference.test_ops import make_batch

OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in isa.names()[1:]]


@pytest.fixture(scope="module", params=[isa.names()[0], *OTHERS])
def ops(request):
    eager = Eager(request.param)
    kinds = ("copy", "gate", "scale", "position")
    each = ("multiply", "clip", "act-sigmoid", "act-tanh")
    eager.library.load([*(f"columns.{k}" for k in kinds), *(f"each.{k}" for k in each)])
    yield eager
    eager.close()


@pytest.fixture(scope="module")
def reference():
    return ReferenceOps()


@pytest.mark.parametrize(("n", "heads"), [(1, 1), (5, 3), (0, 4)])
def test_heads_are_cut_and_joined_alike(ops, reference, n, heads):
    x = numbers(n, heads * 50)
    parts = ops.split(x, (34, 16), heads=heads)
    for got, want in zip(parts, reference.split(x, (34, 16), heads=heads), strict=True):
        assert torch.equal(got, want)
    assert torch.equal(ops.concat([p.contiguous() for p in parts], heads=heads), x)


@pytest.mark.parametrize(("n", "width"), [(1, 96), (5, 40), (0, 24), (2, 1000)])
def test_gates_and_factors(ops, reference, n, width):
    x, y, one = numbers(n, width), numbers(n, width, seed=1), numbers(n, 1, seed=2)
    column = ops.vector([Packed(numbers(1, width).view(torch.uint8).numpy(), "F32", (width,))])
    for name, args in {
        "multiply": (x, y),
        "scale": (x, column),
        "clip": (x, 0.5),
        "act": (x, "sigmoid"),
    }.items():
        close(getattr(ops, name)(*args), getattr(reference, name)(*args))
    assert torch.equal(ops.multiply(x, one), reference.multiply(x, one))
    close(ops.act(x, "tanh"), reference.act(x, "tanh"))


def test_a_nan_is_not_cut_off(ops):
    x = torch.tensor([[float("nan"), 3.0, -3.0]])
    assert ops.clip(x, 1.0).tolist()[0][1:] == [1.0, -1.0]
    assert ops.clip(x, 1.0)[0, 0].isnan()


@pytest.mark.parametrize(("kind", "cols"), [("f32", 96), ("q8_0", 64), ("f32", 40)])
def test_learned_positions(ops, reference, kind, cols):
    raw, _ = random_rows(kind, 60, cols)
    table = Packed(raw, kind.upper(), (60, cols))
    batch = make_batch([(40, 3), (5, 5)], heads=1)
    batch = type(batch)(**{**vars(batch), "state": ()})
    x = numbers(8, cols)
    for offset in (0, 2):
        got = ops.add_positions(x, ops.matrix([table]), batch, offset=offset)
        want = reference.add_positions(x, reference.matrix([table]), batch, offset=offset)
        close(got, want)


def test_factors_by_position(ops, reference):
    factors = numbers(7).abs()
    batch = make_batch([(40, 3), (11, 2)], heads=1)
    batch = type(batch)(**{**vars(batch), "state": ()})
    x = numbers(5, 72)
    for every, offset in ((10, 1), (1, 0), (3, 4)):
        how = {"every": every, "offset": offset}
        got = ops.scale_by_position(x, factors, batch, **how)
        assert torch.equal(got, reference.scale_by_position(x, factors, batch, **how))
