"""Convolutions and recurrences of the reference backend on random shapes, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rbee_worker.ops.reference import scan
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.ops.reference.scan import softplus, within
from tests.ops.recurrences import CASES, Case, Heads, Selective, check


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


@pytest.mark.parametrize("kind", [Selective, Heads])
@pytest.mark.parametrize("numbers", [1, 5000])
def test_the_same_bits_in_blocks_of_any_size(
    kind: type[Case], numbers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = kind(4)
    want, state = case.computed(ReferenceOps(), [case.lengths])
    monkeypatch.setattr(scan, "NUMBERS", numbers)
    got, left = case.computed(ReferenceOps(), [case.lengths])
    assert all(map(torch.equal, got, want))
    assert torch.equal(left, state)


@pytest.mark.parametrize("kind", CASES)
def test_half_precision_rounds_results_and_not_the_state(kind: type[Case]) -> None:
    case, ops = kind(3), ReferenceOps(dtype="bf16")
    case.rows = [t.bfloat16().float() for t in case.rows]
    want, state = case.computed(ReferenceOps(), [case.lengths])
    case.rows = [t.bfloat16() for t in case.rows]
    got, left = case.computed(ops, [case.lengths])
    assert torch.equal(left, state)
    for y, exact in zip(got, want, strict=True):
        assert y.dtype == torch.bfloat16
        assert torch.equal(y, exact.bfloat16())


def test_a_wide_sum_stays_float32_and_its_norm_does_not() -> None:
    ops = ReferenceOps(dtype="bf16")
    x, y = torch.randn(2, 3, 8).bfloat16()
    wide = ops.add(x, y, wide=True)
    assert torch.equal(wide, x.float() + y.float())
    assert ops.add(wide, y, wide=True).dtype == torch.float32
    assert ops.add(x, y).dtype == torch.bfloat16
    assert ops.rms_norm(wide, None, 1e-5).dtype == torch.bfloat16
    assert ops.layer_norm(wide, None, None, 1e-5).dtype == torch.bfloat16
    assert ReferenceOps().rms_norm(wide, None, 1e-5).dtype == torch.float32


def test_softplus_is_torch_s() -> None:
    x = torch.linspace(-60, 60, 4001)
    want = torch.nn.functional.softplus(x.double()).float()
    assert torch.allclose(softplus(x), want, rtol=3e-7, atol=0)


def test_which_sequences_have_rows_in_a_block() -> None:
    starts = [0, 10, 10, 64, 70, 130]
    assert within(starts, 0, 64) == ([0, 2], [0, 10, 64])
    assert within(starts, 64, 128) == ([3, 4], [0, 6, 64])
    assert within(starts, 128, 130) == ([4], [0, 2])
