"""Numbers of a step as a batch: every array arrives, in each backend's memory, and stays shared."""

from __future__ import annotations

import numpy as np
import pytest

from rbee_worker.ops.batch import FixedPlaces, FixedState, PagedPlaces, PagedState, StepNumbers
from rbee_worker.ops.cpu.runtime.state import CpuState
from rbee_worker.ops.reference.state import TorchState
from rbee_worker.state.specs import CrossKV, Fixed, PagedKV, StateGroup

GROUPS = (
    StateGroup(PagedKV(2, 16, 16), 1),
    StateGroup(CrossKV(2, 16, 16), 1),
    StateGroup(Fixed((("conv", (3, 8)), ("h", (8,)))), 2),
)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


@pytest.mark.parametrize("state", [CpuState, TorchState])
def test_numbers_become_a_batch(state: type[CpuState | TorchState]) -> None:
    """Three rows of two sequences, one of which reads a source of 20 rows, the other of 1."""
    table = np.array([[1], [2]], np.int32)
    numbers = StepNumbers(
        tokens=ints(7, 8, 9),
        positions=ints(0, 1, 5),
        seq_starts=ints(0, 2, 3),
        kv_lens=ints(2, 6),
        rope_lens=ints(2, 6),
        sample_rows=ints(1, 2),
        places=(
            PagedPlaces(table, ints(16, 17, 37)),
            PagedPlaces(np.array([[1, 2], [3, 0]], np.int32), ints(0, 0, 0), ints(20, 1)),
            FixedPlaces(ints(2, 1)),
        ),
        seq_starts_host=(0, 2, 3),
        kv_lens_host=(2, 6),
    )
    memory = state(GROUPS, [4, 4, 0], 3, block_size=16, dtype="f32")
    batch = memory.stage(numbers)
    for name in ("tokens", "positions", "seq_starts", "kv_lens", "rope_lens", "sample_rows"):
        assert getattr(batch, name).tolist() == getattr(numbers, name).tolist()
    assert (batch.seq_starts_host, batch.kv_lens_host) == ((0, 2, 3), (2, 6))
    own, cross, fixed = batch.state
    assert isinstance(own, PagedState)
    assert isinstance(cross, PagedState)
    assert isinstance(fixed, FixedState)
    assert own.lens is own.lens_host is None
    assert own.table.tolist() == [[1], [2]]
    assert own.slots.tolist() == [16, 17, 37]
    assert cross.lens is not None
    assert cross.lens_host is not None
    assert cross.lens.tolist() == cross.lens_host.tolist() == [20, 1]
    assert fixed.slots.tolist() == [2, 1]
    assert {name: tuple(t.shape) for name, t in fixed.tensors.items()} == {
        "conv": (2, 3, 3, 8),
        "h": (2, 3, 8),
    }
    numbers.tokens[1] = 50  # the engine writes the next step's numbers into the same arrays
    assert memory.stage(numbers).tokens.tolist() == [7, 50, 9]
