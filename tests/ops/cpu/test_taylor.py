"""Based's linear attention of the cpu backend on random shapes, against float64."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from rbee_worker.ops.cpu.shared import isa
from tests.ops.cpu.eager import Eager
from tests.ops.recurrences import check
from tests.ops.taylor import Taylor


@pytest.fixture(scope="module", params=[1, 3])
def eager(request: pytest.FixtureRequest) -> Iterator[Eager]:
    made = Eager(threads=request.param)
    yield made
    made.close()


@pytest.mark.parametrize("seed", range(8))
def test_random_rows_in_any_cut(eager: Eager, seed: int) -> None:
    check(Taylor(seed), eager)


@pytest.mark.parametrize("name", isa.names())
def test_the_same_bits_on_every_instruction_set(name: str) -> None:
    results = []
    for ops in (Eager(name), Eager()):
        results.append(Taylor(1).computed(ops, [Taylor(1).lengths]))
        ops.close()
    (here, state), (best, expected) = results
    assert all(map(torch.equal, here, best))
    assert torch.equal(state, expected)
