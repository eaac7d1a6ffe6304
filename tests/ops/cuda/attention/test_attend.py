"""`attend` against numpy float64: every option, head size and kind of batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rbee_worker.ops.cuda.kernels.attention.attend import attend
from rbee_worker.ops.cuda.kernels.attention.shapes import Tiles
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from tests.ops.cuda.attention.cases import BOUNDS, DEVICE, Case, error

DECODE = {"rows": [1, 1], "lens": [33, 90]}
PREFILL = {"rows": [33, 20], "lens": [33, 70]}
MIXED = {"rows": [1, 19, 2], "lens": [70, 40, 64]}


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


HEADS = [  # heads, kv_heads, k_dim, v_dim
    (2, 2, 8, 8),
    (2, 1, 24, 16),
    (3, 1, 80, 80),
    (2, 2, 96, 112),
    (5, 1, 192, 128),
    (1, 1, 256, 256),
    (20, 1, 16, 16),
    (70, 1, 16, 16),
]


@pytest.mark.parametrize("heads", HEADS, ids=str)
def test_head_sizes_and_groups(heads: tuple[int, int, int, int]) -> None:
    check(Case([1, 3], [40, 35], *heads))
    check(Case([1], [40], *heads))


@pytest.mark.parametrize(("k_dim", "v_dim"), [(24, 16), (40, 36), (80, 64), (576, 512)])
def test_latent_values_are_the_keys_first_columns(k_dim: int, v_dim: int) -> None:
    for rows in ([1, 1], [2, 5]):
        check(Case(rows, [40, 34], 3, 1, k_dim, v_dim, latent=True))


@pytest.mark.parametrize("rows", [[1, 1], [4, 2]], ids=str)
def test_keys_of_a_source(rows: list[int]) -> None:
    check(Case(rows, [40, 3], 2, 1, 16, 16, source=True, options={"causal": False}))


@pytest.mark.parametrize("options", [{}, {"window": 9}, {"window": 40, "softcap": 2.0}], ids=str)
@pytest.mark.parametrize("rows", [[33, 20], [70, 1]], ids=str)
def test_rows_of_a_picture_see_later_ones(rows: list[int], options: dict[str, Any]) -> None:
    check(Case(rows, [70, 40], 4, 2, 16, 16, options=options, ahead=13))


@pytest.mark.parametrize("rows", [[1, 1], [1, 9]], ids=str)
@pytest.mark.parametrize("cache", [torch.float16, torch.float8_e4m3fn], ids=str)
def test_half_precision(rows: list[int], cache: torch.dtype) -> None:
    check(Case(rows, [60, 33], 4, 2, 32, 32, dtype=torch.float16, cache_dtype=cache))


def test_a_window_reads_no_block_that_it_has_left() -> None:
    """Such a block has gone to another sequence: the table names the sink, which may hold NaN."""
    for rows in ([1], [3]):
        case = Case(rows, [90], 2, 1, 16, 16, options={"window": 20})
        case.table[0, : (90 - rows[0] - 19) // 16] = 0
        check(case)


def test_slots_of_a_padded_batch_are_harmless() -> None:
    """Rows that pad a captured batch read one key in the sink; real rows are as without them."""
    case = Case([1, 1], [40, 1], 4, 2, 16, 16)
    case.table[1] = 0
    got = attend(*case.tensors(), workspace=Workspace(DEVICE), **case.arguments())
    assert error(got[:1], case.expected()[:1]) < BOUNDS[case.dtype]


def test_no_rows() -> None:
    case = Case([1], [3], 2, 1, 16, 16)
    q, k, v, table, starts, lens, at = case.tensors()
    nothing = attend(
        q[:0], k, v, table[:0], starts[:1], lens[:0], at[:0],
        workspace=Workspace(DEVICE), **case.arguments(),
    )  # fmt: skip
    assert nothing.shape == (0, 32)


@pytest.mark.usefixtures("rows_alike")
@pytest.mark.parametrize("options", [{}, {"softcap": 2.0, "window": 50}], ids=str)
def test_a_chunk_of_a_prompt_is_as_the_whole(options: dict[str, Any]) -> None:
    """Bitwise: a row's tiles of keys do not depend on the rows beside it."""
    whole = Case([70], [70], 2, 1, 16, 16, options=options)
    workspace = Workspace(DEVICE)
    expected = attend(*whole.tensors(), workspace=workspace, **whole.arguments())
    q, k, v, table, _, _, at = whole.tensors()
    for first, end in ((0, 30), (30, 45), (45, 70)):
        starts = torch.tensor([0, end - first], device=DEVICE)
        lens = torch.tensor([end], device=DEVICE)
        got = attend(
            q[first:end], k, v, table, starts, lens, at[first:end], workspace=workspace,
            **{**whole.arguments(), "longest_rows": end - first, "longest_keys": end},
        )  # fmt: skip
        assert torch.equal(got, expected[first:end])


@pytest.mark.parametrize("rows", [[5], [9, 1, 2]], ids=str)
@pytest.mark.parametrize("options", [{}, {"window": 40, "sinks": vector(0.5, 2.0)}], ids=str)
def test_the_keys_of_a_few_rows_are_split(rows: list[int], options: dict[str, Any]) -> None:
    case = Case(rows, [120, 90, 70][: len(rows)], 2, 1, 16, 16, options=options)
    workspace = Workspace(DEVICE)
    for splits in (2, 8):
        got = attend(
            *case.tensors(),
            workspace=workspace,
            several=Tiles(16, 16, splits, 1, 2, 4),
            **case.arguments(),
        )
        assert error(got, case.expected()) < BOUNDS[case.dtype]


def test_counters_are_zero_again() -> None:
    workspace = Workspace(DEVICE)
    case = Case([1, 1, 1], [90, 20, 64], 4, 2, 16, 16)
    first = attend(*case.tensors(), workspace=workspace, **case.arguments())
    assert not workspace.counters(1).any()
    assert torch.equal(attend(*case.tensors(), workspace=workspace, **case.arguments()), first)
