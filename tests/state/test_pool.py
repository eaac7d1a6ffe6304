"""StatePool over full, windowed and fixed groups: what is reused, held, shared and given back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_worker.state.blocks import SINK
from rbee_worker.state.paged import SeqState, plan_blocks
from rbee_worker.state.pool import StatePool
from rbee_worker.state.specs import (
    Fixed,
    PagedKV,
    StateGroup,
    group_bytes_per_block,
    group_bytes_per_slot,
)

FULL = StateGroup(PagedKV(2, 8, 8), 3)
WINDOW = StateGroup(PagedKV(2, 8, 8, window=6), 2)
FIXED = StateGroup(Fixed(((4, 2), (3,))), 2)
SIZE = 4


def make(*groups: StateGroup, tokens: int = 64, **kw: object) -> StatePool:
    options = {"max_seqs": 4, "step_tokens": 8, **kw}
    return StatePool(groups, tokens=tokens, block_size=SIZE, **options)  # type: ignore[arg-type]


def run(pool: StatePool, seq: SeqState, n: int) -> int:
    """Compute up to n positions in one step."""
    granted = pool.reserve(seq, n)
    if granted:
        pool.commit(seq, granted)
    return granted


def compute_all(pool: StatePool, tokens: list[int], step: int = 8) -> SeqState:
    seq = pool.new(tokens)
    pool.attach(seq)
    while seq.computed < len(tokens):
        assert run(pool, seq, min(step, len(tokens) - seq.computed))
    return seq


def test_nothing_is_reusable_before_the_step_is_collected() -> None:
    pool = make(FULL)
    tokens = list(range(10))
    seq = pool.new(tokens)
    pool.attach(seq)
    assert pool.reserve(seq, 10) == 10
    assert pool.reusable(pool.new(tokens)) == 0
    pool.commit(seq, 10)
    assert pool.reusable(pool.new(tokens)) == 8


@pytest.mark.parametrize(("length", "spared"), [(8, 4), (9, 8), (12, 8), (13, 12), (3, 0)])
def test_the_last_token_is_always_computed(length: int, spared: int) -> None:
    pool = make(FULL)
    pool.release(compute_all(pool, list(range(20))))
    assert pool.attach(seq := pool.new(list(range(length)))) == spared
    assert seq.computed == seq.planned == spared


def test_a_prefix_is_shared_and_its_blocks_are_counted_once() -> None:
    pool = make(FULL)
    first = compute_all(pool, [*range(12), 90])
    used = pool.usage().used
    second = pool.new([*range(12), 91])
    assert pool.attach(second) == 12
    assert second.tables[0] == first.tables[0][:3]
    assert pool.usage().used == used == 4
    run(pool, second, 1)
    assert pool.usage().used == 5
    pool.check()
    pool.release(first)
    pool.check()
    pool.release(second)
    pool.release(second)  # once more is harmless
    assert pool.usage().used == 0
    assert pool.usage().cached == 3  # full blocks only
    pool.check()


def test_salts_and_limits_keep_prefixes_apart() -> None:
    pool = make(FULL)
    pool.release(compute_all(pool, list(range(20))))
    assert pool.reusable(pool.new(list(range(20)), b"long rope")) == 0
    assert pool.reusable(pool.new(list(range(20))), limit=9) == 8
    assert pool.reusable(pool.new(list(range(20))), limit=0) == 0
    pool.forget()
    assert pool.reusable(pool.new(list(range(20)))) == 0
    assert make(FULL, prefix_cache=False).prefix_cache is False


def test_without_prefix_cache_nothing_is_kept() -> None:
    pool = make(FULL, prefix_cache=False)
    pool.release(compute_all(pool, list(range(20))))
    assert pool.usage().cached == 0
    assert pool.reusable(pool.new(list(range(20)))) == 0


def test_a_windowed_group_holds_its_window_only() -> None:
    pool = make(WINDOW, tokens=64)
    seq = compute_all(pool, list(range(40)), step=4)
    # the next query, at 40, reads 35..40: block 8 holds 32..35; what is before is sunk
    assert list(seq.tables[0][:8]) == [SINK] * 8
    assert all(b != SINK for b in seq.tables[0][8:])
    assert pool.usage().used == 2
    pool.check()
    pool.release(seq)
    pool.check()


def test_a_windowed_prefix_needs_its_last_window_only() -> None:
    pool = make(WINDOW, tokens=32, max_seqs=1, step_tokens=8)
    pool.release(compute_all(pool, list(range(24)), step=4))
    seq = pool.new([*range(24), 99])
    assert pool.attach(seq) == 24
    # a query at 24 reads 19..24: block 4 holds 16..19
    assert list(seq.tables[0][:4]) == [SINK] * 4
    assert SINK not in seq.tables[0][4:]
    pool.check()


def test_a_prefix_counts_only_if_every_group_has_it() -> None:
    pool = make(FULL, WINDOW, tokens=64)
    pool.release(compute_all(pool, list(range(24)), step=4))
    assert pool.reusable(pool.new(list(range(24)))) == 20
    window = pool._paged[1].blocks
    keys = pool._keys(pool.new(list(range(24))), 6)
    lost = window.find(keys[3])  # 12..15; a query at 20 reads 15
    assert lost is not None
    while window.find(keys[3]) is not None:  # forget it by using blocks up
        window.take()
    assert pool.reusable(pool.new(list(range(24)))) in (0, 4, 8, 12)
    assert pool._paged[0].served(keys)[4] is True


def test_a_fixed_group_has_a_slot_for_each_sequence_and_no_prefix() -> None:
    pool = make(FULL, FIXED, max_seqs=2)
    one = compute_all(pool, list(range(20)))
    two = pool.new(list(range(20)))
    assert pool.attach(two) == 0
    assert {one.slot, two.slot} == {1, 2}
    three = pool.new([1])
    pool.attach(three)
    assert pool.reserve(three, 1) == 0
    assert not pool.admits(three, [])
    pool.release(three)
    pool.release(one)
    pool.attach(again := three.renewed())
    assert again.slot == 1 or again.slot == 2
    pool.check()


def test_reserve_grants_what_there_is() -> None:
    pool = make(FULL, tokens=16)
    one, two = pool.new([1] * 10), pool.new([2] * 10)
    pool.attach(one)
    pool.attach(two)
    assert pool.reserve(one, 10) == 10
    assert pool.reserve(two, 10) == 4
    assert pool.reserve(two, 6) == 0
    assert (two.planned, two.computed) == (4, 0)


def test_blocks_of_a_running_step_return_when_it_is_committed() -> None:
    pool = make(FULL, tokens=16)
    seq = pool.new([1] * 16)
    pool.attach(seq)
    pool.reserve(seq, 8)
    pool.reserve(seq, 8)  # two steps in flight
    pool.release(seq)
    pool.check()
    assert pool.usage().used == 4
    pool.commit(seq, 8)
    assert pool.usage().used == 4
    pool.commit(seq, 8)
    assert pool.usage().used == 0
    assert pool.usage().cached == 0  # nothing of it counts as computed
    pool.check()


def test_a_fork_shares_whole_blocks_and_recomputes_the_rest() -> None:
    for groups in ((FULL,), (WINDOW,), (FULL, WINDOW), (FULL, FIXED)):
        pool = make(*groups, prefix_cache=False)
        seq = compute_all(pool, list(range(23)), step=3)
        child = pool.fork(seq, [*range(23), 50])
        expected = 0 if FIXED in groups else 20
        assert child.computed == child.planned == expected
        for mine, theirs in zip(seq.tables, child.tables, strict=True):
            assert len(theirs) == expected // SIZE
            assert all(b in (mine[j], SINK) for j, b in enumerate(theirs))
            assert expected == 0 or theirs[-1] == mine[expected // SIZE - 1] != SINK
        pool.check()
        pool.release(seq)
        pool.check()
        while child.computed < 24:
            assert run(pool, child, 3)
        pool.release(child)
        pool.check()
        assert pool.usage().used == 0


def test_admission_counts_what_others_still_have_to_take() -> None:
    pool = make(FULL, tokens=32)
    one = pool.new([1] * 20)
    pool.attach(one)
    run(pool, one, 4)
    two = pool.new([2] * 11)  # with one token more: three blocks; one needs five more
    pool.attach(two)
    assert pool.admits(two, [])
    assert not pool.admits(two, [one])
    two.tokens.pop()
    two.tokens.pop()
    two.tokens.pop()
    two.tokens.pop()  # 7 + 1 tokens: two blocks
    assert pool.admits(two, [one])


def test_sizes() -> None:
    groups = (FULL, WINDOW, FIXED)
    counts = plan_blocks(groups, tokens=1000, block_size=4, max_seqs=2, step_tokens=8)
    assert counts == (251, 2 * (4 + 2) + 1, 0)
    assert group_bytes_per_block(FULL, 4, "f16") == 3 * 4 * 2 * (8 + 8) * 2
    assert group_bytes_per_block(FULL, 4, "i8") == 3 * 4 * 2 * (8 + 4 + 8 + 4)
    latent = StateGroup(PagedKV(1, 24, 0), 3)
    assert group_bytes_per_block(latent, 4, "i8") == 3 * 4 * (24 + 4)
    assert group_bytes_per_slot(FIXED) == 2 * (8 + 3) * 4
    assert group_bytes_per_slot(FULL) == group_bytes_per_block(FIXED, 4, "f16") == 0


OPS = ("new", "run", "run", "run", "release", "fork", "grow")
STEPS = st.lists(
    st.tuples(st.sampled_from(OPS), st.integers(0, 99), st.integers(1, 9)), max_size=50
)
GROUPS = st.sampled_from([(FULL,), (WINDOW,), (FULL, WINDOW), (FULL, WINDOW, FIXED)])


@settings(max_examples=150, deadline=None)
@given(GROUPS, STEPS, st.booleans())
def test_random_use(
    groups: tuple[StateGroup, ...], steps: list[tuple[str, int, int]], cache: bool
) -> None:
    """Against what the blocks would contain: every position that a query will read is where the
    table says, and was written for the same tokens."""
    pool = make(*groups, tokens=40, max_seqs=3, step_tokens=9, prefix_cache=cache)
    live: list[SeqState] = []
    memory: dict[tuple[int, int], tuple[tuple[int, ...], int]] = {}  # slot -> (prefix, group)
    for op, at, n in steps:
        seq = live[at % len(live)] if live else None
        if op == "new" and len(live) < 3:
            seq = pool.new([at % 2] * (n * 3) + [n])
            pool.attach(seq)
            live.append(seq)
        elif seq is None:
            continue
        elif op == "run" and len(seq.tokens) > seq.planned:
            start = seq.planned
            granted = pool.reserve(seq, min(n, len(seq.tokens) - start))
            for i, table in enumerate(seq.tables):
                for p in range(start, start + granted):
                    slot = table[p // SIZE] * SIZE + p % SIZE
                    assert slot >= SIZE, "a key would go to the sink"
                    memory[i, slot] = tuple(seq.tokens[: p + 1]), p
            _readable(pool, seq, start, start + granted, memory)
            if granted:
                pool.commit(seq, granted)
        elif op == "grow" and len(seq.tokens) < 40:
            seq.tokens.append(n)
        elif op == "release":
            live.remove(seq)
            pool.release(seq)
        elif op == "fork" and len(live) < 3:
            live.append(pool.fork(seq, [*seq.tokens]))
        pool.check()
    for seq in live:
        pool.release(seq)
    pool.check()
    assert pool.usage().used == 0


def _readable(
    pool: StatePool,
    seq: SeqState,
    start: int,
    end: int,
    memory: dict[tuple[int, int], tuple[tuple[int, ...], int]],
) -> None:
    for i, (group, table) in enumerate(zip(pool._paged, seq.tables, strict=True)):
        for query in range(start, end):
            first = 0 if group.window is None else max(0, query - group.window + 1)
            for p in range(first, query + 1):
                slot = table[p // SIZE] * SIZE + p % SIZE
                assert memory[i, slot] == (tuple(seq.tokens[: p + 1]), p)


def test_keys_are_computed_once() -> None:
    pool = make(FULL)
    seq = pool.new(list(range(20)))
    keys = pool._keys(seq, 5)
    assert seq.renewed().keys is seq.keys
    assert len(set(keys)) == 5
    assert all(a != b for a, b in pairwise(keys))
