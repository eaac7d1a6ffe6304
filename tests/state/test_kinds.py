"""The formulas that `inspect` prints, against what the tensors really take."""

from __future__ import annotations

import re
from array import array

import pytest

from rbee_worker.ops.cpu.runtime.state import CpuState
from rbee_worker.state.kinds import StateKind, state_kinds
from rbee_worker.state.paged import PagedGroup
from rbee_worker.state.sequence import SeqState
from rbee_worker.state.specs import CrossKV, Fixed, PagedKV, StateGroup, StepKV

HEADS, BLOCK, BLOCKS, SLOTS = 8, 16, 5, 3
GROUPS = {
    "plain": StateGroup(PagedKV(8, 64, 64), 4),
    "grouped": StateGroup(PagedKV(2, 64, 64), 3),
    "windowed": StateGroup(PagedKV(2, 32, 32, window=40), 5),
    "latent": StateGroup(PagedKV(1, 576, 0), 2),
    "recurrent": StateGroup(Fixed((("conv", (3, 96)), ("h", (24, 16, 4)))), 6),
    "cross": StateGroup(CrossKV(8, 64, 64), 4),
    "step": StateGroup(StepKV(8, 64, 64), 1),
}
UNEQUAL = StateGroup(PagedKV(2, 192, 128), 3)  # keys wider than values


def kind_of(group: StateGroup, dtype: str) -> StateKind:
    [found] = state_kinds([group], HEADS, dtype)
    return found


def by_formula(text: str) -> int:
    """The number that a printed formula says: `2 heads * 64*2 bytes` is 2 * 64*2."""
    each = re.sub(" at a time| a (token|sequence|row of the source)", "", text.split(",")[0])
    numbers = re.sub(r"[a-z]+", "", each)
    assert re.fullmatch(r"[0-9 *+()]+", numbers)
    return int(eval(numbers))


@pytest.mark.parametrize("dtype", ["f32", "f16", "i8"])
@pytest.mark.parametrize("name", [*GROUPS, "grouped, unequal"])
def test_the_formula_is_what_is_allocated(name: str, dtype: str) -> None:
    group = GROUPS.get(name, UNEQUAL)
    found = kind_of(group, dtype)
    assert found.kind == name.split(",")[0]
    made = CpuState([group], [BLOCKS], SLOTS, block_size=BLOCK, dtype=dtype)
    assert made.nbytes == BLOCKS * BLOCK * found.per_token + SLOTS * found.per_sequence
    assert by_formula(found.formula) == (found.per_token or found.per_sequence)
    assert (found.per_token == 0) == (found.kind == "recurrent")


def test_the_published_formulas() -> None:
    """2 h d for each head, 2 h_kv d for a group, latent + rope once, the same at any length."""
    f16 = {name: kind_of(group, "f16") for name, group in GROUPS.items()}
    assert f16["plain"].per_token == 4 * 2 * 8 * 64 * 2
    assert f16["grouped"].per_token == 3 * 2 * 2 * 64 * 2
    assert f16["windowed"].of(1000) == 5 * 2 * 2 * 32 * 2 * 40
    assert f16["windowed"].of(10) == 5 * 2 * 2 * 32 * 2 * 10
    assert f16["latent"].per_token == 2 * (512 + 64) * 2
    assert f16["recurrent"].of(1) == f16["recurrent"].of(10**6) == 6 * (3 * 96 + 24 * 16 * 4) * 4


def test_a_window_keeps_its_blocks_and_no_more() -> None:
    """What a sequence of 1,000 tokens holds: the window in whole blocks."""
    spec = GROUPS["windowed"].spec
    assert isinstance(spec, PagedKV)
    group = PagedGroup(spec, 0, BLOCK, 100)
    seq = SeqState([1] * 1000, tables=[array("i")])
    group.adopt(seq, [])
    for end in range(1, 1001):
        assert group.extend(seq, end) == end
        seq.computed = seq.planned = end
        group.shrink(seq)
    held = len(list(group.held(seq)))
    assert spec.window is not None
    assert spec.window <= held * BLOCK <= spec.window + 2 * BLOCK
