"""`attend_decode` against numpy float64, and what it leaves in the cache."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch

from rbee_worker.ops.cuda.kernels.attention.attend_decode import attend_decode
from rbee_worker.ops.cuda.kernels.attention.scratch import Workspace
from rbee_worker.ops.cuda.kernels.attention.shapes import Tiles
from tests.ops.cuda.attention.cases import BLOCK, BOUNDS, DEVICE, Case, attention, error
from tests.ops.cuda.attention.packed import KINDS, Before
from tests.ops.cuda.attention.test_attend import OPTIONS

CAUSAL = {name: options for name, options in OPTIONS.items() if "causal" not in options}


class Step:
    """One decode step of a case: the last key of each sequence is the new one, whose place in the
    cache is poisoned until the step writes it."""

    def __init__(self, case: Case, kind: Before) -> None:
        self.case = case
        self.before = copy.copy(kind)
        batch = len(case.lens)
        self.before.draw(batch, case.k_dim)
        width = case.heads * case.k_dim + case.kv_heads * (case.k_dim + case.v_dim)
        draw = torch.Generator().manual_seed(9)
        self.qkv = torch.randn((batch, width), generator=draw).to(case.dtype).to(DEVICE)
        block = [case.table[b, (n - 1) // BLOCK].item() for b, n in enumerate(case.lens)]
        slots = [at * BLOCK + (n - 1) % BLOCK for at, n in zip(block, case.lens, strict=True)]
        self.slots = torch.tensor(slots, device=DEVICE)
        for slot in slots:
            case.k[slot // BLOCK, slot % BLOCK] = float("nan")
            case.v[slot // BLOCK, slot % BLOCK] = float("nan")
        dims = (case.heads, case.kv_heads, case.k_dim, case.v_dim)
        self.q, self.k, self.v = self.before.parts(self.qkv, *dims)

    def expected(self) -> Any:
        case = self.case
        rows = []
        for b, n in enumerate(case.lens):
            keys = np.concatenate([case.keys[b][:-1], self.k[b : b + 1]])
            values = np.concatenate([case.values[b][:-1], self.v[b : b + 1]])
            at = np.array([n - 1])
            q = self.q[b : b + 1]
            rows.append(attention(q, keys, values, at, case.k_dim**-0.5, **case.options))
        return np.concatenate(rows).reshape(len(rows), -1)

    def run(self, **more: Any) -> torch.Tensor:
        case = self.case
        return attend_decode(
            self.qkv, case.k, case.v, case.table, case.kv_lens, self.slots, self.before.angles,
            **{
                "workspace": Workspace(DEVICE),
                "longest_keys": max(case.lens),
                "heads": case.heads,
                "kv_heads": case.kv_heads,
                "k_dim": case.k_dim,
                "scale": case.k_dim**-0.5,
                **self.before.arguments(),
                **case.options,
                **more,
            },
        )  # fmt: skip

    def check(self, **more: Any) -> None:
        bound = BOUNDS[self.case.dtype]
        got = self.run(**more)
        assert got.dtype == self.case.dtype
        assert error(got, self.expected()) < bound
        block, inside = self.slots // BLOCK, self.slots % BLOCK
        assert error(self.case.k[block, inside].float(), self.k) < bound
        assert error(self.case.v[block, inside].float(), self.v) < bound


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
    assert not workspace.counters.any()


def test_rows_that_pad_a_batch_share_the_sink() -> None:
    step = Step(Case([1, 1, 1], [40, 1, 1], 4, 2, 16, 16), Before(16))
    step.case.table[1:] = 0
    step.slots[1:] = 0
    assert error(step.run()[:1], step.expected()[:1]) < BOUNDS[torch.float32]


def test_no_sequences() -> None:
    step = Step(Case([1], [3], 2, 1, 16, 16), Before())
    step.qkv, step.slots = step.qkv[:0], step.slots[:0]
    assert step.run().shape == (0, 32)
