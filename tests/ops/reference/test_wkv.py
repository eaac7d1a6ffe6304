"""RWKV's operations of the reference backend on random shapes, against float64."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from rbee_worker.errors import UnsupportedModel
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.ops.reference.wkv import _sum
from rbee_worker.ops.wkv import Wkv
from tests.ops.recurrences import Case, check
from tests.ops.wkv import CASES


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", CASES)
def test_random_rows_in_any_cut(kind: type[Case], seed: int) -> None:
    check(kind(seed), ReferenceOps())


@pytest.mark.parametrize("kind", CASES)
def test_half_precision_rounds_results_and_not_the_state(kind: type[Case]) -> None:
    case, ops = kind(3), ReferenceOps(dtype="bf16")
    case.rows = [t.bfloat16().float() for t in case.rows]
    if kind is CASES[0]:  # whose state is a row of activations
        case.state = case.state.bfloat16().float()
    want, state = case.computed(ReferenceOps(), [case.lengths])
    case.rows = [t.bfloat16() for t in case.rows]
    got, left = case.computed(ops, [case.lengths])
    assert torch.equal(left, state)
    for y, exact in zip(got, want, strict=True):
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, exact.bfloat16())


@pytest.mark.parametrize("parts", [1, 3])
def test_lerp(parts: int) -> None:
    x, y = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1)).unbind()
    factors, moving = torch.rand(parts * 24), torch.rand(5, parts * 24)
    for f, m in ((factors, None), (None, moving), (factors, moving)):
        share = (0 if f is None else f.double()) + (0 if m is None else m.double())
        share = torch.as_tensor(share).expand(5, -1).view(5, parts, 24)
        want = torch.lerp(x.double()[:, None], y.double()[:, None], share).flatten(1)
        got = ReferenceOps().lerp(x, y, f, m)
        assert (got - want).abs().max() < 1e-6


def test_norms_of_heads_with_weights_of_their_own() -> None:
    x, weight, bias = torch.randn(5, 24), torch.randn(24), torch.randn(24)
    want = torch.nn.functional.group_norm(x, 3, weight, bias, eps=1e-3)
    assert torch.allclose(
        ReferenceOps().layer_norm(x, weight, bias, 1e-3, heads=3), want, atol=1e-6
    )


@pytest.mark.parametrize("name", ["previous", "lerp", "wkv", "wkv_delta"])
def test_a_backend_without_an_operation_names_it(name: str) -> None:
    operation: Any = getattr(Wkv, name)
    count = len(inspect.signature(operation).parameters) - 1
    heads = {"heads": 1} if "heads" in inspect.signature(operation).parameters else {}
    with pytest.raises(UnsupportedModel, match=f"does not have the operation '{name}'"):
        operation(ReferenceOps(), *[None] * (count - len(heads)), **heads)


def test_sums_have_one_order() -> None:
    x = torch.randn(4, 37, 9)
    assert np.allclose(_sum(x), x.double().sum(1), atol=1e-5)
    assert torch.equal(_sum(x)[1:2], _sum(x[1:2]))
    assert torch.equal(_sum(x)[:, 3:4], _sum(x[..., 3:4]))
