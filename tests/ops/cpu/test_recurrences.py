"""Convolutions and recurrences of the cpu backend on random shapes, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rbee_worker.ops.cpu.shared import isa
from rbee_worker.ops.reference.ops import ReferenceOps
from tests.ops.cpu.eager import Eager
from tests.ops.recurrences import CASES, Case, Conv, check


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


def test_a_convolution_without_activation_has_the_bits_of_the_reference(eager: Eager) -> None:
    seen = 0
    for seed in range(12):
        case = Conv(seed)
        if case.kind is None:
            got, left = case.computed(eager, [case.lengths])
            want, expected = case.computed(ReferenceOps(), [case.lengths])
            assert all(map(torch.equal, got, want))
            assert torch.equal(left, expected)
            seen += 1
    assert seen > 1


def test_what_is_not_a_number_stays_in_its_column(eager: Eager) -> None:
    """And in the sequence that it came to."""
    for kind in CASES:
        case = kind(5)
        want, _ = case.computed(eager, [case.lengths])
        case.rows[case.by_column][case.of(0).start, 0] = torch.nan
        got, _ = case.computed(eager, [case.lengths])
        assert bool(got[0][0, 0].isnan())
        assert torch.equal(got[0][:, 1:], want[0][:, 1:])
        assert all(map(torch.equal, got[1:], want[1:]))
