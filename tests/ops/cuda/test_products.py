"""Products of few rows against float64, with all that comes before and after them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rbee_worker.ops.cuda.kernels.gemv import GemvShape, gemv
from rbee_worker.ops.cuda.kernels.skinny import skinny
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from rbee_worker.ops.reference.experts import activate
from tests.ops.cuda.near import BOUNDS, DEVICE, DTYPES, error, randn

KINDS = ["silu", "gelu", "gelu_tanh", "gelu_quick", "relu", "relu2", "sigmoid", "tanh"]
CASES = [  # bias, gated, act, residual, norm
    (False, None, "none", False, False),
    (True, None, "none", False, False),
    (True, None, "none", True, True),
    (False, "silu", "none", False, True),
    (True, "gelu_tanh", "none", True, False),
    *((False, None, kind, False, False) for kind in KINDS),
]


def wanted(
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    gated: str | None,
    act: str,
    residual: Tensor | None,
    norm: tuple[Tensor, float] | None,
) -> Tensor:
    """The same in float64."""
    rows = x.double()
    if norm is not None:
        rows = rows * torch.rsqrt(rows.square().mean(1, keepdim=True) + norm[1]) * norm[0].double()
    y = F.linear(rows, w.double(), None if bias is None else bias.double())
    if gated is not None:
        gate, up = y.chunk(2, dim=1)
        y = activate(gate, gated) * up
    elif act != "none":
        y = activate(y, act)
    return y if residual is None else y + residual.double()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize(("rows", "k"), [(40, 96), (64, 128), (6, 576)])
def test_one_row(dtype: torch.dtype, case: tuple, rows: int, k: int) -> None:
    has_bias, gated, act, has_residual, has_norm = case
    x, w = randn(1, k, seed=1, dtype=dtype), randn(rows, k, seed=2, dtype=dtype, scale=k**-0.5)
    n = rows // 2 if gated else rows
    bias = randn(rows, seed=3) if has_bias else None
    residual = randn(1, n, seed=4, dtype=dtype) if has_residual else None
    norm = (randn(k, seed=5) + 1, 1e-5) if has_norm else None
    got = gemv(x, w, bias=bias, gated=gated, act=act, residual=residual, norm=norm)
    assert got.dtype == dtype
    assert error(got, wanted(x, w, bias, gated, act, residual, norm)) < BOUNDS[dtype]


@pytest.mark.parametrize("stages", [0, 3])
@pytest.mark.parametrize("cols", [32, 64, 128])
def test_every_form_of_the_tile(stages: int, cols: int) -> None:
    """Loops of several tiles, with and without a rest in rows and columns."""
    shape = GemvShape(4, cols, stages, 4)
    for rows, k in ((12, 128), (10, 160), (8, 64)):
        x, w = randn(1, k, seed=6), randn(rows, k, seed=7)
        norm = (randn(k, seed=8), 1e-6)
        got = gemv(x, w, norm=norm, gated="silu", shape=shape)
        assert error(got, wanted(x, w, None, "silu", "none", None, norm)) < BOUNDS[x.dtype]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", [case[:4] for case in CASES[:6]], ids=str)
@pytest.mark.parametrize(("m", "rows", "k"), [(2, 64, 128), (5, 72, 160), (17, 40, 1100)])
def test_few_rows(dtype: torch.dtype, case: tuple, m: int, rows: int, k: int) -> None:
    has_bias, gated, act, has_residual = case
    x, w = randn(m, k, seed=1, dtype=dtype), randn(rows, k, seed=2, dtype=dtype, scale=k**-0.5)
    n = rows // 2 if gated else rows
    bias = randn(rows, seed=3) if has_bias else None
    residual = randn(m, n, seed=4, dtype=dtype) if has_residual else None
    workspace = Workspace(torch.device(DEVICE))
    options = {"bias": bias, "gated": gated, "act": act, "residual": residual}
    want = wanted(x, w, bias, gated, act, residual, None)
    for _ in range(2):  # the counters are zero again
        got = skinny(x, w, workspace, **options)
        assert error(got, want) < BOUNDS[dtype]
    assert not workspace.counters(64).any()


@pytest.mark.usefixtures("rows_alike")
def test_a_row_does_not_depend_on_the_others() -> None:
    """To the bit, among steps of one padded size."""
    w, workspace = randn(64, 256, seed=1), Workspace(torch.device(DEVICE))
    x = randn(8, 256, seed=2)
    whole = skinny(x, w, workspace)
    some = skinny(x[:6].contiguous(), w, workspace)
    assert torch.equal(whole[:6], some)


def test_logits_are_float32() -> None:
    x, w = randn(1, 64, seed=1, dtype=torch.float16), randn(32, 64, seed=2, dtype=torch.float16)
    got = gemv(x, w, form=torch.float32)
    assert got.dtype == torch.float32
    assert error(got, x.double() @ w.double().t()) < 1e-6
