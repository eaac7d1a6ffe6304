"""Based's linear attention of the reference backend on random shapes, against float64."""

from __future__ import annotations

import pytest
import torch

from rbee_worker.errors import UnsupportedModel
from rbee_worker.ops.reference.ops import ReferenceOps
from rbee_worker.ops.taylor import Taylor as Operation
from tests.ops.recurrences import check
from tests.ops.taylor import Taylor


@pytest.mark.parametrize("seed", range(8))
def test_random_rows_in_any_cut(seed: int) -> None:
    check(Taylor(seed), ReferenceOps())


def test_half_precision_rounds_results_and_not_the_state() -> None:
    case, ops = Taylor(3), ReferenceOps(dtype="bf16")
    case.rows = [t.bfloat16().float() for t in case.rows]
    want, state = case.computed(ReferenceOps(), [case.lengths])
    case.rows = [t.bfloat16() for t in case.rows]
    got, left = case.computed(ops, [case.lengths])
    assert torch.equal(left, state)
    for y, exact in zip(got, want, strict=True):
        assert torch.equal(y, exact.bfloat16())


def test_a_backend_without_it_names_it() -> None:
    with pytest.raises(UnsupportedModel, match="does not have the operation 'taylor'"):
        Operation.taylor(ReferenceOps(), *[None] * 6, heads=1)  # type: ignore[arg-type]
