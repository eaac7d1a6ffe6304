"""StatePool over full, windowed and fixed groups: what is reused, held, shared and given back."""

from __future__ import annotations

from collections import deque
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_worker.state.blocks import SINK
from rbee_worker.state.fixed import plan_slots
from rbee_worker.state.paged import plan_blocks
from rbee_worker.state.pool import SeqState, StatePool
from rbee_worker.state.specs import (
    CrossKV,
    Fixed,
    PagedKV,
    StateGroup,
    group_bytes_per_block,
    group_bytes_per_slot,
)
from tests.state.slot_memory import Content, SlotMemory

FULL = StateGroup(PagedKV(2, 8, 8), 3)
WINDOW = StateGroup(PagedKV(2, 8, 8, window=6), 2)
FIXED = StateGroup(Fixed((("h", (4, 2)), ("conv", (3,)))), 2)
CROSS = StateGroup(CrossKV(2, 8, 8), 2)
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
    window = pool._paged[1].units
    keys = pool._keys(pool.new(list(range(24))), 6)
    lost = window.find(keys[3])  # 12..15; a query at 20 reads 15
    assert lost is not None
    while window.find(keys[3]) is not None:  # forget it by using blocks up
        window.take()
    assert pool.reusable(pool.new(list(range(24)))) in (0, 4, 8, 12)
    assert pool._paged[0].served(keys)[4] is True


def test_a_fixed_group_has_a_slot_for_each_sequence() -> None:
    pool = make(FULL, FIXED, max_seqs=2)
    one = compute_all(pool, list(range(20)))
    two = pool.new(list(range(20)))
    assert pool.attach(two) == 0  # no snapshots: nothing to go on from
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


def hybrid(snapshots: int = 2, **kw: object) -> StatePool:
    return make(FULL, FIXED, max_seqs=2, snapshots=snapshots, snapshot_tokens=8, **kw)


def test_steps_end_at_snapshots_which_are_taken_before_the_next_one() -> None:
    pool = hybrid()
    seq = pool.new(list(range(20)))
    pool.attach(seq)
    assert pool.most(seq, 20) == 8
    assert pool.most(seq, 5) == 5
    assert pool.reserve(seq, 3) == 3
    pool.commit(seq, 3)
    assert pool.most(seq, 20) == 5
    assert pool.reserve(seq, 20) == 5
    assert pool.copies() == []
    pool.commit(seq, 5)
    assert pool.reusable(pool.new(list(range(20)))) == 0  # its state is still in the slot alone
    assert pool.reserve(seq, 1) == 1
    assert pool.copies() == [(seq.slot, 2)]
    assert pool.copies() == []
    assert pool.reusable(pool.new(list(range(20)))) == 0  # the copy is under way
    pool.commit(seq, 1)
    assert pool.reusable(pool.new(list(range(20)))) == 8
    assert pool.reusable(pool.new([*range(7), 50, *range(9)])) == 0
    pool.check()


def test_a_preempted_sequence_goes_on_from_its_last_snapshot() -> None:
    pool = hybrid()
    seq = compute_all(pool, list(range(22)))
    assert [pair[0] for pair in pool.copies()] == [seq.slot, seq.slot]  # at 8 and at 16
    pool.release(seq)
    again = seq.renewed()
    assert pool.attach(again) == 16
    snapshot = again.resume
    pool.check()
    assert pool.reserve(again, 6) == 6
    assert pool.copies() == [(snapshot, again.slot)]
    assert again.resume == 0
    pool.check()


def test_a_hybrid_goes_on_where_both_kinds_of_state_are_known() -> None:
    pool = hybrid(tokens=32)
    pool.release(compute_all(pool, list(range(22))))
    keys = pool._keys(pool.new(list(range(22))), 5)
    assert pool._paged[0].served(keys) == [True] * 5
    assert pool._fixed[0].served(keys) == [False, True, False, True, False]
    assert pool.reusable(pool.new(list(range(22)))) == 16
    assert pool.reusable(pool.new(list(range(22))), limit=15) == 8
    blocks = pool._paged[0].units
    while blocks.find(keys[2]) is not None:  # 8..11 are forgotten, the snapshots are not
        blocks.take()
    assert pool._fixed[0].served(keys)[3]
    assert pool.reusable(pool.new(list(range(22)))) in (0, 8)


def test_the_least_recently_used_snapshot_gives_way() -> None:
    pool = make(FIXED, max_seqs=1, snapshots=2, snapshot_tokens=8, tokens=1000)
    prompts = {name: [name] * 9 for name in range(3)}
    for name in (0, 1):
        pool.release(compute_all(pool, prompts[name]))
    assert [pool.reusable(pool.new(p)) for p in prompts.values()] == [8, 8, 0]
    pool.release(compute_all(pool, prompts[0]))  # 0 goes on from its own: now 1 is the oldest
    pool.release(compute_all(pool, prompts[2]))
    assert [pool.reusable(pool.new(p)) for p in prompts.values()] == [8, 0, 8]
    pool.check()


def test_a_known_snapshot_is_not_taken_again() -> None:
    pool = make(FIXED, max_seqs=1, snapshots=2, snapshot_tokens=8, tokens=1000)
    pool.release(compute_all(pool, list(range(9))))
    assert len(pool.copies()) == 1
    seq = pool.new(list(range(9)))
    pool.attach(seq, limit=7)  # it may not go on from it
    while seq.computed < 9:
        run(pool, seq, 9)
    assert pool.copies() == []
    pool.check()


def test_a_failed_step_leaves_no_snapshot() -> None:
    """What a released sequence's last step was to copy is not known to have been copied."""
    pool = make(FIXED, max_seqs=1, snapshots=2, snapshot_tokens=8, tokens=1000)
    seq = pool.new(list(range(9)))
    pool.attach(seq)
    run(pool, seq, 8)
    pool.reserve(seq, 1)
    pool.release(seq)
    pool.check()
    pool.commit(seq, 1)
    pool.check()
    assert pool.reusable(pool.new(list(range(9)))) == 0


def test_a_snapshot_is_known_when_the_step_after_it_is_over() -> None:
    """Its copy is launched with that step, which may still fail."""
    pool = make(FIXED, max_seqs=1, snapshots=2, snapshot_tokens=8, tokens=1000)
    seq = pool.new(list(range(9)))
    pool.attach(seq)
    pool.reserve(seq, 8)
    pool.reserve(seq, 1)
    assert len(pool.copies()) == 1
    pool.commit(seq, 8)
    assert pool.reusable(pool.new(list(range(9)))) == 0
    pool.commit(seq, 1)
    assert pool.reusable(pool.new(list(range(9)))) == 8


def test_snapshots_leave_a_slot_for_every_sequence() -> None:
    pool = make(FIXED, max_seqs=2, snapshots=1, snapshot_tokens=4, tokens=1000)
    one = pool.new(list(range(40)))
    pool.attach(one)
    for _ in range(4):  # four steps in flight: three would want a snapshot, one fits
        assert pool.reserve(one, 4) == 4
    assert len(pool.copies()) == 1
    two = pool.new([7])
    pool.attach(two)
    assert two.slot
    pool.check()


def test_recurrent_state_without_reuse_has_no_snapshots() -> None:
    pool = hybrid(prefix_cache=False)
    assert pool.n_slots == 3
    seq = pool.new(list(range(20)))
    pool.attach(seq)
    assert pool.most(seq, 20) == pool.reserve(seq, 20) == 20


def test_a_source_is_held_whole_and_not_shared() -> None:
    pool = make(FULL, CROSS, tokens=24)
    one = pool.new([1] * 6, source=14)
    pool.attach(one)
    assert pool.reserve(one, 6) == 6
    assert [len(table) for table in one.tables] == [2, 4]
    pool.commit(one, 6)
    assert pool.reserve(one, 1) == 1
    assert len(one.tables[1]) == 4  # as long as the source, whatever the sequence is
    two = pool.new([1] * 6, source=14)
    assert pool.attach(two) == 0
    assert not pool.admits(two, [one])
    assert pool.reserve(two, 6) == 0  # two blocks are left, four are needed
    assert len(two.tables[1]) == 0
    pool.check()
    pool.release(one)
    pool.commit(one, 1)
    assert pool.admits(two, [])
    assert pool.reserve(two, 6) == 6
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
    assert plan_slots(groups, 2, 5) == 8
    assert plan_slots(groups, 2, 5, 3) == 11
    assert plan_slots((FULL, WINDOW), 2, 5) == 0
    assert group_bytes_per_block(FULL, 4, "f16") == 3 * 4 * 2 * (8 + 8) * 2
    assert group_bytes_per_block(FULL, 4, "i8") == 3 * 4 * 2 * (8 + 4 + 8 + 4)
    latent = StateGroup(PagedKV(1, 24, 0), 3)
    assert group_bytes_per_block(latent, 4, "i8") == 3 * 4 * (24 + 4)
    assert group_bytes_per_slot(FIXED) == 2 * (8 + 3) * 4
    assert group_bytes_per_slot(FULL) == group_bytes_per_block(FIXED, 4, "f16") == 0


STEPS = st.lists(
    st.tuples(
        st.sampled_from(("new", "run", "run", "run", "release", "grow")),
        st.integers(0, 99),
        st.integers(1, 9),
    ),
    max_size=60,
)
GROUPS = st.sampled_from(
    [(FULL,), (WINDOW,), (FULL, WINDOW), (FIXED,), (FULL, FIXED), (FULL, WINDOW, FIXED)]
)


@settings(max_examples=300, deadline=None)
@given(GROUPS, STEPS, st.booleans(), st.integers(0, 4), st.integers(1, 3))
def test_random_use(
    groups: tuple[StateGroup, ...],
    steps: list[tuple[str, int, int]],
    cache: bool,
    snapshots: int,
    depth: int,
) -> None:
    """Against what the memory would contain: every position that a query will read is where the
    table says, and was written for the same tokens; recurrent state is that of exactly the tokens
    before the step, snapshots that of exactly their prefix. `depth` steps run at once."""
    pool = make(
        *groups, tokens=40, max_seqs=3, step_tokens=9, prefix_cache=cache,
        snapshots=snapshots, snapshot_tokens=2 * SIZE,
    )  # fmt: skip
    live: list[SeqState] = []
    running: deque[tuple[SeqState, int]] = deque()
    slots = SlotMemory(pool)
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
            wanted = pool.most(seq, min(n, len(seq.tokens) - start))
            granted = pool.reserve(seq, min(n, len(seq.tokens) - start))
            assert granted <= wanted
            slots.copy(pool.copies())
            if granted:
                slots.compute(seq, start, start + granted)
                running.append((seq, granted))
            for i, table in enumerate(seq.tables):
                for p in range(start, start + granted):
                    slot = table[p // SIZE] * SIZE + p % SIZE
                    assert slot >= SIZE, "a key would go to the sink"
                    memory[i, slot] = tuple(seq.tokens[: p + 1]), p
            _readable(pool, seq, start, start + granted, memory)
        elif op == "grow" and len(seq.tokens) < 40:
            seq.tokens.append(n % 2)
        elif op == "release":
            live.remove(seq)
            pool.release(seq)
        while len(running) >= depth:
            pool.commit(*running.popleft())
        pool.check()
        slots.check()
    for seq in live:
        pool.release(seq)
    for step in running:
        pool.commit(*step)
    pool.check()
    slots.check()
    assert pool.usage().used == 0


DRAFTS = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 6), st.integers(0, 6)), max_size=50)


@settings(max_examples=150, deadline=None)
@given(DRAFTS, st.integers(0, 3), st.integers(0, 2))
def test_drafts_over_recurrent_state(
    steps: list[tuple[int, int, int]], snapshots: int, spares: int
) -> None:
    """Sequence `at` drafts n tokens, of which `right` are right: whatever was wrong, every step
    begins with the state of exactly the tokens before it, and so does every snapshot."""
    pool = make(
        FULL, FIXED, tokens=240, max_seqs=3, step_tokens=24,
        snapshots=snapshots, spares=spares, snapshot_tokens=2 * SIZE,
    )  # fmt: skip
    slots, live, wide, back = SlotMemory(pool), list[SeqState](), 0, 0
    for at, n, right in steps:
        if at >= len(live):
            live.append(pool.new([n % 2] * (n + 1)))
            pool.attach(live[-1])
        seq = live[at % len(live)]
        start, missing = seq.planned, len(seq.tokens) - seq.planned
        granted = pool.reserve(seq, missing)
        more = pool.widen(seq, n) if granted == missing == 1 else 0
        slots.copy(pool.copies())
        slots.compute(seq, start, start + granted)
        if more:
            known = [*seq.tokens, *[7] * more]
            slots._slots[seq.slot] = Content(known, seq.salt, start + 1 + more)
        if granted == missing:
            seq.tokens += [*[7] * min(right, more), n % 2]
        rejected = max(more - right, 0)
        pool.commit(seq, granted + more, rejected)
        assert seq.computed == seq.planned == start + (0 if rejected else granted + more)
        wide, back = wide + bool(more), back + bool(rejected)
        pool.check()
        slots.check()
    assert spares or not wide
    for seq in live:
        pool.release(seq)
    pool.check()
    assert pool.usage().used == 0


def test_space_that_was_not_needed_is_given_back() -> None:
    pool = make(FULL, FIXED, spares=1)
    seq = pool.new([1] * 4)
    pool.attach(seq)
    run(pool, seq, 3)
    assert pool.reserve(seq, 1) == 1
    assert pool.widen(seq, 9) == 9
    used = pool.usage().used
    pool.narrow(seq, 9)
    assert (seq.planned, pool.usage().used) == (4, used - 3)
    assert pool.widen(seq, 2) == 2
    assert len(pool.copies()) == 1  # the state is saved once a step
    pool.commit(seq, 3, 0)
    pool.check()


def _readable(
    pool: StatePool,
    seq: SeqState,
    start: int,
    end: int,
    memory: dict[tuple[int, int], tuple[tuple[int, ...], int]],
) -> None:
    for i, group in enumerate(pool._paged):
        table = group.table(seq)
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


@pytest.mark.parametrize("groups", [(FULL,), (FULL, WINDOW), (CROSS, FULL)], ids=str)
@pytest.mark.parametrize("rejected", range(7))
def test_rejected_positions_are_given_up(groups: tuple[StateGroup, ...], rejected: int) -> None:
    """A step of 1 known and 6 drafted tokens, some of them wrong: what it holds and what others
    find is as if it had never computed those."""
    pool, plain = make(*groups), make(*groups)
    tokens, source = list(range(10)), 5 if CROSS in groups else 0
    seq, other = pool.new(tokens, source=source), plain.new(list(tokens), source=source)
    for each, by in ((seq, pool), (other, plain)):
        by.attach(each)
        assert run(by, each, 9) == 9
    assert pool.reserve(seq, 1) == 1
    assert pool.widen(seq, 6) == 6
    assert seq.planned == 16
    pool.check()
    right = [100 + i for i in range(6 - rejected)]
    tokens += [*right, 55]
    pool.commit(seq, 7, rejected)
    assert seq.planned == seq.computed == 16 - rejected
    pool.check()
    other.tokens += [*right, 55]
    assert run(plain, other, 7 - rejected) == 7 - rejected
    assert [list(t) for t in seq.tables] == [list(t) for t in other.tables]
    assert pool.usage() == plain.usage()
    for probe in ([*tokens, 1], [*range(10), *range(100, 106), 1, 2, 3]):
        assert pool.reusable(pool.new(probe)) == plain.reusable(plain.new(list(probe)))
    while seq.planned < 24:  # it goes on
        tokens.append(7)
        assert run(pool, seq, 1) == 1
    pool.release(seq)
    pool.check()
    assert pool.usage().used == 0


def test_more_positions_are_granted_only_as_far_as_there_is_room() -> None:
    pool = make(FULL, tokens=16)
    seq = pool.new(list(range(10)))
    pool.attach(seq)
    assert run(pool, seq, 9) == 9
    assert pool.reserve(seq, 1) == 1
    assert pool.widen(seq, 20) == 6
    assert pool.widen(seq, 20) == 0
    pool.commit(seq, 7, 6)
    assert seq.planned == 10
    pool.release(seq)
    pool.check()


def test_no_group_keeps_more_than_was_granted() -> None:
    pool = make(FULL, WINDOW, tokens=64)
    seq = pool.new(list(range(10)))
    pool.attach(seq)
    assert run(pool, seq, 9) == 9
    assert pool.reserve(seq, 1) == 1
    window = pool._paged[1].units
    others = [window.take() for _ in range(window.available - 1)]
    assert pool.widen(seq, 14) == 6
    assert [len(table) for table in seq.tables] == [4, 4]
    pool.commit(seq, 7)
    for block in others:
        window.drop(block)
    pool.check()


def test_recurrent_state_takes_no_positions_that_may_be_given_up() -> None:
    pool = make(FULL, FIXED)
    seq = pool.new(list(range(10)))
    pool.attach(seq)
    assert pool.reserve(seq, 4)
    assert pool.widen(seq, 1) == 0  # there is no spare slot
