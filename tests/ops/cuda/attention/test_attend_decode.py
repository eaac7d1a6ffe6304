"""`attend_decode` against numpy float64, and what it leaves in the cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rbee_worker.ops.cuda.kernels.attention.shapes import Tiles
from rbee_worker.ops.cuda.kernels.workspace import Workspace
from tests.ops.cuda.attention.cases import BOUNDS, DEVICE, Case, error
from tests.ops.cuda.attention.packed import KINDS, Before
from tests.ops.cuda.attention.steps import Step
from tests.ops.cuda.attention.test_attend import OPTIONS

CAUSAL = {name: options for name, options in OPTIONS.items() if "causal" not in options}


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_norms_and_positions(kind: Before) -> None:
    Step(Case([1, 1], [1, 60], 4, 2, 32, 32), kind).check()


@pytest.mark.parametrize("options", CAUSAL.values(), ids=CAUSAL)
def test_options(options: dict[str, Any]) -> None:
    Step(Case([1, 1], [33, 70], 4, 2, 32, 32, options=options), Before(32)).check()


@pytest.mark.parametrize(
    "heads", [(2, 2, 8, 8), (3, 1, 80, 80), (5, 1, 48, 40), (20, 1, 16, 16), (70, 1, 16, 16)],
    ids=str,
)  # fmt: skip
def test_head_sizes_and_groups(heads: tuple[int, int, int, int]) -> None:
    Step(Case([1], [50], *heads), Before(heads[2] // 4 * 2, norms=True)).check()


def test_half_precision() -> None:
    Step(Case([1, 1], [60, 33], 4, 2, 32, 32, dtype=torch.float16), Before(32)).check()


def test_an_eight_bit_cache() -> None:
    held = torch.float8_e4m3fn
    case = Case([1], [40], 2, 1, 16, 16, dtype=torch.float16, cache_dtype=held)
    step = Step(case, Before())
    step.qkv = step.qkv.to(held).half()  # the interpreter does not round to it as the card does
    step.q, step.k, step.v = step.before.parts(step.qkv, 2, 1, 16, 16)
    step.check()


@pytest.mark.parametrize(
    "tiles",
    [
        Tiles(16, 16, 1, 1, 0, 4),
        Tiles(16, 16, 4, 1, 0, 4),
        Tiles(16, 16, 4, 1, 1, 4),
        Tiles(16, 16, 4, 2, 2, 4),
        Tiles(16, 32, 16, 1, 0, 4),
    ],
    ids=str,
)
def test_every_way_to_cut_the_keys(tiles: Tiles) -> None:
    workspace = Workspace(DEVICE)
    for n in (1, 16, 17, 18, 70):
        Step(Case([1, 1], [n, 30], 2, 1, 16, 16), Before(16)).check(
            tiles=tiles, workspace=workspace
        )
    assert not workspace.counters(1).any()


@pytest.mark.parametrize(
    ("group", "width"), [(2, 24), (2, 192), (8, 24), (8, 80), (16, 16), (16, 192)]
)
def test_splits_are_combined_a_few_at_a_time(group: int, width: int) -> None:
    """By the last program, or by a kernel of its own where one has no room."""
    case = Case([1], [140], group, 1, 16, width)
    Step(case, Before()).check(tiles=Tiles(16, 16, 16, 1, 1, 1))


@pytest.mark.usefixtures("rows_alike")
def test_a_row_does_not_depend_on_the_batch() -> None:
    many = Step(Case([1] * 40, [70] + [3] * 39, 2, 1, 16, 16), Before(16))
    batch = many.run(invariant=True)
    many.qkv, many.slots, case = many.qkv[:1], many.slots[:1], many.case
    case.table, case.kv_lens = case.table[:1], case.kv_lens[:1]
    assert torch.equal(many.run(invariant=True), batch[:1])


def test_rows_that_pad_a_batch_share_the_sink() -> None:
    step = Step(Case([1, 1, 1], [40, 1, 1], 4, 2, 16, 16), Before(16))
    step.case.table[1:] = 0
    step.slots[1:] = 0
    assert error(step.run()[:1], step.expected()[:1]) < BOUNDS[torch.float32]


def test_no_sequences() -> None:
    step = Step(Case([1], [3], 2, 1, 16, 16), Before())
    step.qkv, step.slots = step.qkv[:0], step.slots[:0]
    assert step.run().shape == (0, 32)
