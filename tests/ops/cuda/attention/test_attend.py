"""`attend` against numpy float64: every option, head size and kind of batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rbee_worker.ops.cuda.kernels.attention.attend import attend
from rbee_worker.ops.cuda.kernels.attention.combine import Workspace
from tests.ops.cuda.attention.cases import BOUNDS, DEVICE, Case, error

DECODE = {"rows": [1, 1, 1], "lens": [1, 37, 150]}
PREFILL = {"rows": [33, 20], "lens": [33, 70]}
MIXED = {"rows": [1, 19, 1, 2], "lens": [90, 40, 1, 64]}


def vector(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, device=DEVICE)


OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "window": {"window": 24},
    "narrow window": {"window": 3},
    "chunk": {"chunk": 32},
    "softcap": {"softcap": 1.5},
    "slopes": {"slopes": vector(0.5, 0.25, 0.125, 0.06)},
    "sinks": {"sinks": vector(0.5, -1.0, 2.0, 9.0)},
    "all": {
        "window": 40,
        "softcap": 2.0,
        "slopes": vector(0.1, 0.2, 0.0, 0.3),
        "sinks": vector(1.0, 0.0, -2.0, 3.0),
    },
    "both ways": {"causal": False},
    "both ways, window": {"causal": False, "window": 9},
    "both ways, softcap, sinks": {
        "causal": False,
        "softcap": 1.0,
        "sinks": vector(1.0, 0.0, -2.0, 3.0),
    },
}


def check(case: Case) -> None:
    got = attend(*case.tensors(), workspace=Workspace(DEVICE), **case.arguments())
    assert got.dtype == case.dtype
    assert error(got, case.expected()) < BOUNDS[case.dtype]


@pytest.mark.parametrize("batch", [DECODE, PREFILL, MIXED], ids=["decode", "prefill", "mixed"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_options(batch: dict[str, list[int]], options: dict[str, Any]) -> None:
    check(Case(**batch, heads=4, kv_heads=2, k_dim=32, v_dim=32, options=options))
