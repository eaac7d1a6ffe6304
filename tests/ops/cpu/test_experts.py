"""Routing, experts and matrices by head of CpuOps equal the reference, bitwise in any batch."""

import random

import pytest
import torch

from rbee_worker.checkpoint.formats import Packed
from rbee_worker.ops import Routing
from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.reference.ops import ReferenceOps
from tests.ops.cpu.eager import Eager
from tests.ops.cpu.test_backend import close, numbers
from tests.ops.cpu.test_linear import random_rows
from tests.ops.reference.test_experts import ROUTINGS

OTHERS = [pytest.param(name, marks=pytest.mark.slow) for name in isa.names()[1:]]


@pytest.fixture(scope="module", params=[isa.names()[0], *OTHERS])
def ops(request):
    eager = Eager(request.param)
    eager.library.load([f"route.{k}" for k in ("softmax", "sigmoid", "sparsemixer")])
    yield eager
    eager.close()


@pytest.fixture(scope="module")
def exact(ops):
    """The same with float32 activations, as the reference has them."""
    eager = Eager(ops.library.isa.name, exact=True)
    yield eager
    eager.close()


@pytest.fixture(scope="module")
def reference():
    return ReferenceOps()


def ids_of(x):
    return x.contiguous().view(torch.int32)


@pytest.mark.parametrize("name", ROUTINGS)
@pytest.mark.parametrize("count", [16, 64])
def test_routing(ops, reference, name, count):
    r = ROUTINGS[name]
    logits = numbers(67, count, scale=2.0)
    bias = None if r.score == "sparsemixer" else numbers(count, seed=1)
    scales = numbers(count, seed=2).abs()
    for how in ({}, {"bias": bias}, {"scales": scales}):
        want, weights = reference.route(logits, r, **how)
        got = ops.route(logits, r, **how)
        assert torch.equal(ids_of(got[0]).long(), want)
        close(got[1], weights, rtol=5e-6)
        for rows in (slice(0, 1), slice(66, 67), slice(9, 13)):
            part = ops.route(logits[rows], r, **how)
            assert torch.equal(ids_of(part[0]), ids_of(got[0])[rows])
            assert torch.equal(part[1], got[1][rows])


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
def test_ties_and_odd_numbers(ops, reference, score):
    """Ties go to the lower id; rows of nan choose somebody, and nobody else is touched."""
    logits = torch.tensor(
        [[1.0, 3.0, 3.0, 3.0, 0.0, 3.0], [0.0] * 6, [float("nan")] * 6, [30.0, 31.0, 0, 0, 0, 0]]
    )
    for r in (Routing(2, score), Routing(2, score, groups=3), Routing(2, score, groups=2)):
        want, weights = reference.route(logits[[0, 1, 3]], r)
        got = ops.route(logits, r)
        assert torch.equal(ids_of(got[0])[[0, 1, 3]].long(), want)
        close(got[1][[0, 1, 3]], weights)
        lost = ids_of(got[0])[2].tolist()
        assert lost[0] < lost[1] < 6
        assert got[1][2].isnan().all()


def packed(name, count, rows, cols, seed=0):
    """One stacked tensor of random blocks, as parts of `count` members."""
    raw, _ = random_rows(name, count * rows, cols, seed)
    return [
        Packed(raw[e * rows : (e + 1) * rows], name.upper(), (rows, cols)) for e in range(count)
    ]


def members(*parts):
    return [list(one) for one in zip(*parts, strict=True)]


def vector(ops, x):
    return ops.vector([Packed(x.contiguous().view(torch.uint8).numpy(), "F32", tuple(x.shape))])


def choices(n, count, top):
    generator = torch.Generator().manual_seed(n)
    ids = torch.rand(n, count, generator=generator).argsort(1)[:, :top].sort(1).values
    if n > 8:
        ids[2:8] = ids[2]  # a tile of rows that share their experts
    return ids


class Mixture:
    """The same experts on two backends."""

    def __init__(self, form, width, dim, *, gate="f32", down="f32", count=6):
        one, two = packed(gate, count, width, dim, 1), packed(gate, count, width, dim, 2)
        self.up = members(one) if form == "plain" else members(one, two)
        self.down = members(packed(down, count, dim, width, 3))
        self.rows = width if form == "plain" else 2 * width
        self.form, self.dim, self.count = form, dim, count

    def run(self, ops, x, ids, weights):
        kind = "gelu_quick" if self.form == "clamped" else "silu"
        how = {}
        if self.form != "gated":
            how["up_bias"] = vector(ops, numbers(self.count, self.rows, seed=4))
            how["down_bias"] = vector(ops, numbers(self.count, self.dim, seed=5))
        if self.form == "clamped":
            how["limit"] = 0.7
        return ops.experts(x, ids, weights, ops.stack(self.up), ops.stack(self.down), kind, **how)


@pytest.mark.parametrize("form", ["gated", "plain", "clamped"])
@pytest.mark.parametrize(("width", "dim"), [(48, 64), (40, 72)])
def test_experts_of_floats(ops, reference, form, width, dim):
    m = Mixture(form, width, dim)
    for n in (1, 5, 40):
        x, ids = numbers(n, dim, scale=0.3), choices(n, 6, 3)
        for weights in (numbers(n, 3, seed=7).abs(), None):
            got = m.run(ops, x, ids, weights)
            want = m.run(reference, x, ids, weights)
            assert float((got - want).norm() / want.norm()) < 2e-6


@pytest.mark.parametrize(
    ("gate", "down"),
    [("q4_0", "q8_0"), ("q4_k", "q6_k"), ("mxfp4", "mxfp4"), ("iq2_xs", "iq3_s")],
)
def test_packed_experts(ops, exact, reference, gate, down):
    """Exact activations equal the reference; int8 ones stay as near as int8 products do."""
    width, dim = 256, 512
    m = Mixture("gated", width, dim, gate=gate, down=down)
    x, ids, weights = numbers(21, dim), choices(21, 6, 2), numbers(21, 2, seed=7).abs()
    want = m.run(reference, x, ids, weights)
    near = m.run(exact, x, ids, weights)
    assert float((near - want).norm() / want.norm()) < 3e-6
    rough = m.run(ops, x, ids, weights)
    assert float((rough - want).norm() / want.norm()) < 2e-2


@pytest.mark.parametrize("gate", ["q4_0", "f32"])
def test_rows_do_not_see_each_other(ops, gate):
    m = Mixture("gated", 64, 96, gate=gate, down=gate)
    x, ids, weights = numbers(45, 96), choices(45, 6, 3), numbers(45, 3, seed=7).abs()
    whole = m.run(ops, x, ids, weights)
    for rows in (slice(0, 1), slice(44, 45), slice(2, 8), slice(3, 20), slice(1, 45)):
        assert torch.equal(m.run(ops, x[rows], ids[rows], weights[rows]), whole[rows])
    order = torch.randperm(45)
    assert torch.equal(m.run(ops, x[order], ids[order], weights[order]), whole[order])
    for threads in (1, 3):
        eager = Eager(ops.library.isa.name, threads)
        assert torch.equal(m.run(eager, x, ids, weights), whole)
        eager.close()


def test_experts_nobody_chose_are_not_read(ops):
    """Their weights may be nan."""
    m = Mixture("gated", 32, 64)
    for e in (1, 4):
        for one in (*m.up[e], *m.down[e]):
            one.data.view("f4")[:] = float("nan")
    ids = torch.tensor([[0, 2], [3, 5], [2, 3]])
    assert m.run(ops, numbers(3, 64), ids, None).isfinite().all()


def test_many_rows_of_one_expert(ops, reference):
    """More than a cache's worth of activations for one expert, none for the others."""
    m = Mixture("gated", 32, 1024)
    x, ids = numbers(150, 1024, scale=0.1), torch.full((150, 1), 4)
    got, want = m.run(ops, x, ids, None), m.run(reference, x, ids, None)
    assert float((got - want).norm() / want.norm()) < 2e-6


@pytest.mark.parametrize(
    ("kind", "rows", "cols"), [("f32", 64, 32), ("f32", 40, 24), ("f32", 48, 96), ("q8_0", 64, 64)]
)
def test_each_head_has_its_own_matrix(exact, reference, kind, rows, cols):
    parts = members(packed(kind, 5, rows, cols))
    x = numbers(37, 5 * cols)
    held = exact.stack(parts)
    got, want = exact.heads_linear(x, held), reference.heads_linear(x, reference.stack(parts))
    assert float((got - want).norm() / want.norm()) < 2e-6
    for some in (slice(0, 1), slice(3, 20), slice(36, 37)):
        assert torch.equal(exact.heads_linear(x[some], held), got[some])


def test_no_rows_at_all(ops):
    m = Mixture("gated", 32, 64)
    got = ops.route(torch.zeros(0, 6), Routing(2))
    assert got[0].shape == (0, 2)
    assert m.run(ops, torch.zeros(0, 64), torch.zeros(0, 2).long(), None).shape == (0, 64)
    heads = ops.stack(members(packed("f32", 2, 16, 32)))
    assert ops.heads_linear(torch.zeros(0, 64), heads).shape == (0, 32)


def test_fuzzed_shapes(ops, reference):
    """Odd widths, one expert, more experts than rows, every top_k."""
    rng = random.Random(1)
    for _ in range(40):
        count, n = rng.choice([1, 2, 5, 17]), rng.choice([1, 2, 3, 9, 33])
        top = rng.randint(1, count)
        form = rng.choice(["gated", "plain", "clamped"])
        m = Mixture(form, rng.choice([1, 16, 33, 70]), rng.choice([1, 15, 32, 100]), count=count)
        routing = Routing(top, rng.choice(["softmax", "sigmoid"]), normalise=rng.random() < 0.5)
        x, logits = numbers(n, m.dim, scale=0.3), numbers(n, count, seed=3)
        ids, weights = reference.route(logits, routing)
        got_ids, got_weights = ops.route(logits, routing)
        assert torch.equal(ids_of(got_ids).long(), ids)
        close(got_weights, weights, rtol=5e-6)
        want, got = m.run(reference, x, ids, weights), m.run(ops, x, ids, weights)
        assert float((got - want).norm()) <= 3e-6 * float(want.norm())
        heads = members(packed("f32", count, rng.choice([1, 16, 40]), rng.choice([3, 32, 50])))
        x = numbers(n, count * heads[0][0].shape[1])
        got, want = (o.heads_linear(x, o.stack(heads)) for o in (ops, reference))
        assert float((got - want).norm()) <= 3e-6 * float(want.norm())
