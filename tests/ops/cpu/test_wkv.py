"""RWKV's operations of the cpu backend on random shapes, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.reference.ops import ReferenceOps
from tests.ops.cpu.eager import Eager
from tests.ops.recurrences import Case, check
from tests.ops.wkv import CASES


@pytest.fixture(scope="module", params=[1, 3])
def eager(request: pytest.FixtureRequest) -> Iterator[Eager]:
    made = Eager(threads=request.param)
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", CASES)
def test_random_rows_in_any_cut(eager: Eager, kind: type[Case], seed: int) -> None:
    check(kind(seed), eager)


@pytest.mark.parametrize("name", isa.names())
@pytest.mark.parametrize("kind", CASES)
def test_the_same_bits_on_every_instruction_set(kind: type[Case], name: str) -> None:
    results = []
    for ops in (Eager(name), Eager()):
        results.append(kind(1).computed(ops, [kind(1).lengths]))
        ops.close()
    (here, state), (best, expected) = results
    assert all(map(torch.equal, here, best))
    assert torch.equal(state, expected)


@pytest.mark.parametrize("width", [1, 16, 70, 200])
@pytest.mark.parametrize("parts", [1, 3])
def test_lerp(eager: Eager, parts: int, width: int) -> None:
    x, y = torch.randn(2, 5, width, generator=torch.Generator().manual_seed(1)).unbind()
    factors, moving = torch.rand(parts * width), torch.rand(5, parts * width)
    for f, m in ((factors, None), (None, moving), (factors, moving)):
        got, want = (ops.lerp(x, y, f, m) for ops in (eager, ReferenceOps()))
        assert (got - want).abs().max() < 1e-6


@pytest.mark.parametrize("heads", [1, 3])
def test_norms_of_heads_with_weights_of_their_own(eager: Eager, heads: int) -> None:
    x, weight, bias = torch.randn(5, 8 * heads), torch.randn(8 * heads), torch.randn(8 * heads)
    want = torch.nn.functional.group_norm(x, heads, weight, bias, eps=1e-3)
    got = eager.layer_norm(x, weight, bias, 1e-3, heads=heads)
    assert torch.allclose(got, want, atol=1e-5)
    for w, b in ((weight, None), (None, bias)):
        want = torch.nn.functional.group_norm(x, heads, w, b, eps=1e-3)
        assert torch.allclose(eager.layer_norm(x, w, b, 1e-3, heads=heads), want, atol=1e-5)
