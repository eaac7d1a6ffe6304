"""Attention of a step in which some sequences go on and others begin: the latter by cuDNN."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import pytest
import torch

from rbee_worker.ops.batch import PagedPlaces, StepNumbers
from rbee_worker.ops.cuda.device_ops import DeviceOps
from rbee_worker.ops.cuda.drawn import Drawn
from rbee_worker.ops.cuda.kernels import attention
from rbee_worker.ops.cuda.state import CudaState
from rbee_worker.state.specs import PagedKV, StateGroup, StateRef
from tests.ops.cuda.near import BOUNDS, DEVICE, error, randn

HEADS, KV_HEADS, DIM, BLOCK = 4, 2, 16, 4


def numbers(begins: list[int], counts: list[int]) -> StepNumbers:
    """A step of sequences that have `begins` keys and get `counts` more; 8 blocks for each."""
    places = [range(begin, begin + n) for begin, n in zip(begins, counts, strict=True)]
    slots = [(1 + 8 * i) * BLOCK + at for i, some in enumerate(places) for at in some]
    lens = [a + b for a, b in zip(begins, counts, strict=True)]
    table = np.arange(8 * len(counts), dtype=np.int32).reshape(-1, 8) + 1
    starts = [0, *accumulate(counts)]
    return StepNumbers(
        tokens=np.zeros(len(slots), np.int64),
        positions=np.array([at for some in places for at in some]),
        seq_starts=np.array(starts),
        kv_lens=np.array(lens),
        rope_lens=np.array(lens),
        sample_rows=np.array(starts[1:]) - 1,
        places=(PagedPlaces(table, np.array(slots)),),
        seq_starts_host=starts,
        kv_lens_host=lens,
    )


def attended(steps: list[StepNumbers]) -> torch.Tensor:
    """The last step's result, after those before it."""
    state = CudaState(
        [StateGroup(PagedKV(KV_HEADS, DIM, DIM), 1)], [64], 1, block_size=BLOCK, dtype="f16",
        device=DEVICE, drawn=Drawn(torch.device(DEVICE)),
    )  # fmt: skip
    ops = DeviceOps(DEVICE, "f16", pdl=False)
    for n, step in enumerate(steps):
        qkv = randn(len(step.tokens), (HEADS + 2 * KV_HEADS) * DIM, seed=n, dtype=torch.float16)
        got = ops.attend_packed(
            qkv, StateRef(0, 0), state.stage(step), heads=HEADS, kv_heads=KV_HEADS, spec=None,
            q_norm=None, k_norm=None, scale=0.25,
        )  # fmt: skip
    return got


@pytest.mark.parametrize(
    ("begins", "counts"),
    [([9, 5, 0, 0, 0], [1, 3, 6, 6, 4]), ([9, 5, 0], [1, 1, 7]), ([0, 0], [6, 2])],
    ids=str,
)
def test_new_sequences(
    begins: list[int], counts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [n for n in begins if n]
    steps = [*([numbers([0] * len(old), old)] if old else []), numbers(begins, counts)]
    monkeypatch.setattr(attention, "takes_prompts", lambda *_: False)
    want = attended(steps)
    asked: list[list[int]] = []
    monkeypatch.setattr(
        attention, "takes_prompts", lambda *given: asked.append(given[3]) or bool(given[3])
    )
    assert error(attended(steps), want) < 2 * BOUNDS[torch.float16]
    assert asked[-1] == counts[len(old) :]
