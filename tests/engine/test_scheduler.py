"""The scheduler under random arrivals, lengths, cancels, pool sizes and steps in flight."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter, deque
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_worker.engine.messages import Submit
from rbee_worker.engine.scheduler import Plan, Scheduler
from rbee_worker.engine.sequence import Sequence
from rbee_worker.engine.stop import StopRules
from rbee_worker.state.pool import StatePool
from rbee_worker.state.specs import Fixed, PagedKV, StateGroup
from rbee_worker.types import SamplingParams
from tests.state.slot_memory import SlotMemory

FULL = (StateGroup(PagedKV(1, 1, 1), 1),)
MIXED = (*FULL, StateGroup(PagedKV(1, 1, 1, window=5), 1))
RECURRENT = (StateGroup(Fixed((("h", (1,)),)), 1),)
HYBRID = (*FULL, *RECURRENT)
SIZE = 4


def pool_of(
    groups: tuple[StateGroup, ...], tokens: int, budget: int, seqs: int, **kw: int
) -> StatePool:
    return StatePool(
        groups, tokens=tokens, block_size=SIZE, max_seqs=seqs, step_tokens=budget, **kw
    )


def sequence(pool: StatePool, number: int, prompt: int, output: int, first: int = 0) -> Sequence:
    """`prompt` tokens (starting with `first`, so that prefixes are shared) and `output` more."""
    ids = tuple([first] * prompt)
    params = SamplingParams(max_tokens=output)
    tokens = list(ids)
    return Sequence(
        submit=Submit(seq=str(number), prompt_ids=ids, params=params),
        tokens=tokens,
        limit=prompt + output,
        rules=StopRules(params, (), prompt=prompt, context=1 << 30),
        state=pool.new(tokens),
        arrival=number,
        arrived_s=0.0,
        rope_len=prompt,
    )


@dataclass
class Run:
    """A stand-in for the engine: steps of a plan complete `depth` - 1 steps later.

    Recurrent state is followed: each chunk must find that of the tokens before it.
    """

    scheduler: Scheduler
    pool: StatePool
    depth: int = 1

    def __post_init__(self) -> None:
        self.pending: deque[Plan] = deque()
        self.finished: list[Sequence] = []
        self.steps = 0
        self.slots = SlotMemory(self.pool)
        self.seen: Counter[str] = Counter()

    def step(self) -> Plan:
        plan = self.scheduler.schedule()
        self.pending.append(plan)
        self.steps += bool(plan.chunks)
        assert plan.chunks or not plan.copies
        taken = [s.slot for c in plan.chunks for s in c.state.snapshots]
        self.seen["snapshots"] += sum(target in taken for _, target in plan.copies)
        self.seen["resumed"] += sum(target not in taken for _, target in plan.copies)
        self.slots.copy(plan.copies)
        for chunk in plan.chunks:
            self.slots.compute(chunk.state, chunk.start, chunk.start + chunk.count)
        while len(self.pending) >= self.depth and self.pending:
            self.collect(self.pending.popleft())
        self.pool.check()
        self.slots.check()
        return plan

    def collect(self, plan: Plan) -> None:
        for chunk in plan.chunks:
            seq = chunk.seq
            self.pool.commit(chunk.state, chunk.count)
            if seq.state is not chunk.state or seq.done:
                continue
            seq.drawing -= chunk.draws
            seq.solo = False
            if chunk.draws:
                seq.tokens.append(len(seq.tokens) % 3)
                if seq.n_output == seq.submit.params.max_tokens:
                    self.finish(seq)

    def finish(self, seq: Sequence) -> None:
        self.scheduler.finish(seq)
        self.finished.append(seq)

    def drain(self) -> None:
        while self.pending:
            self.collect(self.pending.popleft())


def make(tokens: int = 64, budget: int = 8, seqs: int = 4, depth: int = 1) -> Run:
    pool = pool_of(FULL, tokens, budget, seqs)
    return Run(Scheduler(pool, token_budget=budget, max_seqs=seqs), pool, depth)


def names(plan: Plan) -> list[tuple[str, int, int, int]]:
    return [(c.seq.id, c.start, c.count, c.draws) for c in plan.chunks]


def test_a_long_prefill_shares_its_steps_with_decodes() -> None:
    run = make(budget=8)
    run.scheduler.add(sequence(run.pool, 1, 3, 9, first=1))
    assert names(run.step()) == [("1", 0, 3, True)]
    run.scheduler.add(sequence(run.pool, 2, 20, 2, first=2))
    run.scheduler.add(sequence(run.pool, 3, 2, 2, first=3))
    assert names(run.step()) == [("1", 3, 1, True), ("2", 0, 7, False)]
    assert names(run.step()) == [("1", 4, 1, True), ("2", 7, 7, False)]
    # the budget that is left goes to the next in line
    assert names(run.step()) == [("1", 5, 1, True), ("2", 14, 6, True), ("3", 0, 1, False)]
    assert names(run.step()) == [("1", 6, 1, True), ("2", 20, 1, True), ("3", 1, 1, True)]


def test_decodes_are_fewer_than_the_budget_so_that_prefill_moves() -> None:
    run = make(budget=3, seqs=10)
    assert run.scheduler.max_seqs == 2
    for i in range(4):
        run.scheduler.add(sequence(run.pool, i, 6, 6, first=i))
    seen = []
    while not run.scheduler.idle:
        plan = run.step()
        assert plan.tokens <= 3
        seen.append(names(plan))
    assert [s.id for s in run.finished] == ["0", "1", "2", "3"]


def test_the_youngest_is_preempted_and_the_oldest_never() -> None:
    run = make(tokens=16, budget=8, seqs=4)
    for i in range(3):
        run.scheduler.add(sequence(run.pool, i, 3, 9, first=i))
    preempted: list[str] = []
    while not run.scheduler.idle:
        preempted += [s.id for s in run.step().preempted]
        running = [s.arrival for s in run.scheduler.running]
        waiting = [s.arrival for s in run.scheduler.waiting]
        assert running + waiting == sorted(running + waiting)
    assert preempted
    assert "0" not in preempted
    assert [s.id for s in run.finished] == ["0", "1", "2"]
    assert all(s.n_output == 9 for s in run.finished)


def test_admission_waits_for_room_and_keeps_the_order() -> None:
    run = make(tokens=32, budget=16, seqs=4)
    run.scheduler.add(sequence(run.pool, 0, 14, 2, first=1))
    run.scheduler.add(sequence(run.pool, 1, 20, 2, first=2))  # no room beside the first
    run.scheduler.add(sequence(run.pool, 2, 2, 2, first=3))  # there would be, but it came later
    assert names(run.step()) == [("0", 0, 14, True)]
    assert [s.id for s in run.scheduler.waiting] == ["1", "2"]
    assert names(run.step()) == [("0", 14, 1, True)]
    assert names(run.step()) == [("1", 0, 16, False)]
    assert not run.step().preempted


def test_reset_computes_everything_again() -> None:
    run = make()
    run.pool.prefix_cache = False
    seq = sequence(run.pool, 0, 5, 3)
    run.scheduler.add(seq)
    lengths = []
    while not run.scheduler.idle:
        plan = run.step()
        lengths += [c.count for c in plan.chunks]
        if not seq.done:
            run.scheduler.reset(seq)
    assert lengths == [5, 6, 7]


def test_suspects_run_alone_once_and_in_order() -> None:
    run = make(budget=16)
    seqs = [sequence(run.pool, i, 3, 4, first=i) for i in range(3)]
    for seq in seqs:
        run.scheduler.add(seq)
    plan = run.scheduler.schedule()
    assert len(plan.chunks) == 3
    left = run.scheduler.suspect([c.seq for c in plan.chunks])
    for chunk in plan.chunks:
        run.pool.commit(chunk.state, chunk.count)
    assert left == seqs
    run.pool.check()
    assert run.pool.usage().used == 0
    assert [names(run.step()) for _ in range(3)] == [[(str(i), 0, 3, True)] for i in range(3)]
    assert len(run.step().chunks) == 3


def test_nobody_runs_beside_a_suspect_that_waits_for_its_token() -> None:
    """Where steps overlap, a step with nobody in it waits for the suspect's."""
    run = make(budget=16, depth=2)
    seqs = [sequence(run.pool, i, 3, 4, first=i) for i in range(2)]
    for seq in seqs:
        seq.waits = True
        run.scheduler.add(seq)
    plan = run.scheduler.schedule()
    run.scheduler.suspect([c.seq for c in plan.chunks])
    for chunk in plan.chunks:
        run.pool.commit(chunk.state, chunk.count)
    assert [names(run.step()) for _ in range(4)] == [[("0", 0, 3, 1)], [], [("1", 0, 3, 1)], []]
    assert names(run.step()) == [("0", 3, 1, 1), ("1", 3, 1, 1)]


REQUESTS = st.lists(
    st.tuples(
        st.integers(0, 12),  # step of arrival
        st.integers(1, 30),  # prompt
        st.integers(1, 12),  # output
        st.integers(0, 2),  # first token: which prefix it shares
        st.none() | st.integers(0, 15),  # cancelled so many steps later
    ),
    min_size=1,
    max_size=12,
)


@settings(max_examples=150, deadline=None)
@given(
    requests=REQUESTS,
    groups=st.sampled_from([FULL, MIXED, RECURRENT, HYBRID]),
    tokens=st.integers(42, 120),
    budget=st.integers(1, 20),
    seqs=st.integers(1, 6),
    depth=st.integers(1, 3),
    cache=st.booleans(),
    snapshots=st.integers(0, 5),
)
def test_every_request_ends_within_its_bound(
    requests: list[tuple[int, int, int, int, int | None]],
    groups: tuple[StateGroup, ...],
    tokens: int,
    budget: int,
    seqs: int,
    depth: int,
    cache: bool,
    snapshots: int,
) -> None:
    pool = pool_of(
        groups, tokens, budget, seqs, prefix_cache=cache, snapshots=snapshots, snapshot_tokens=8
    )
    run = Run(Scheduler(pool, token_budget=budget, max_seqs=seqs), pool, depth)
    todo = sorted(enumerate(requests), key=lambda r: r[1][0])
    cancels: dict[int, list[Sequence]] = {}
    everyone: list[Sequence] = []
    clock = 0
    work = sum(p + o for _, p, o, _, _ in requests)
    while todo or not run.scheduler.idle:
        while todo and todo[0][1][0] <= clock:
            _, (_, prompt, output, first, cancel) = todo.pop(0)
            seq = sequence(pool, len(everyone) + 1, prompt, output, first)
            everyone.append(seq)
            run.scheduler.add(seq)
            if cancel is not None:
                cancels.setdefault(clock + cancel, []).append(seq)
        for seq in cancels.pop(clock, []):
            if not seq.done:
                run.finish(seq)  # queued, prefilling, decoding or in flight
        oldest = min((s for s in everyone if not s.done), key=lambda s: s.arrival, default=None)
        before = oldest.state.planned if oldest else 0
        plan = run.step()
        assert plan.tokens == sum(c.count for c in plan.chunks) <= budget
        assert len({c.seq for c in plan.chunks}) == len(plan.chunks)
        assert len(run.scheduler.running) <= run.scheduler.max_seqs
        assert oldest not in plan.preempted
        if depth == 1 and oldest is not None and not oldest.done:
            assert oldest.state.planned > before  # the oldest gets something in every step
        arrivals = [s.arrival for s in (*run.scheduler.running, *run.scheduler.waiting)]
        assert arrivals == sorted(arrivals)
        clock += 1
        # one token a step for the oldest is the least; steps in flight may have to come home first
        assert clock <= 12 + work * depth + depth, "somebody starves"
    run.drain()
    pool.check()
    assert pool.usage().used == 0
    cancelled = {s.arrival for s in everyone} - {s.arrival for s in run.finished}
    assert not cancelled, "somebody never ended"
    for seq in everyone:
        assert seq.n_output <= seq.submit.params.max_tokens


@pytest.mark.parametrize("groups", [RECURRENT, HYBRID], ids=["recurrent", "hybrid"])
@pytest.mark.parametrize("depth", [1, 2, 3])
def test_recurrent_state_is_always_that_of_the_tokens_before_a_step(
    groups: tuple[StateGroup, ...], depth: int
) -> None:
    """Long random schedules of prompts that share beginnings, in too little memory."""
    seen: Counter[str] = Counter()
    for seed in range(30):
        rng = random.Random(seed)
        snapshots, seqs = rng.randint(1, 15), rng.randint(1, 5)
        pool = pool_of(
            groups, rng.randint(60, 150), 12, seqs, snapshots=snapshots, snapshot_tokens=8
        )
        run = Run(Scheduler(pool, token_budget=12, max_seqs=seqs), pool, depth)
        live: list[Sequence] = []
        left = 40
        while left or not run.scheduler.idle:
            if left and rng.random() < 0.3:
                left -= 1
                first = rng.randrange(3)
                live.append(sequence(pool, 40 - left, rng.randint(1, 40), 12, first))
                run.scheduler.add(live[-1])
            if live and rng.random() < 0.05:
                seq = rng.choice(live)
                if not seq.done:
                    run.finish(seq)
            seen["preempted"] += len(run.step().preempted)
        run.drain()
        pool.check()
        assert pool.usage().used == 0
        seen += run.seen
    assert seen["resumed"] > 300, seen
    assert seen["snapshots"] > 300, seen
    assert seen["preempted"] > (20 if groups is HYBRID else -1), seen


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 20)), min_size=2, max_size=8),
    st.integers(4, 16),
)
def test_a_decoding_sequence_gets_a_token_in_every_step(
    requests: list[tuple[int, int]], budget: int
) -> None:
    """With memory for all, no prefill, however long, costs a decode a step."""
    run = make(tokens=1000, budget=budget, seqs=8)
    for i, (prompt, output) in enumerate(requests):
        run.scheduler.add(sequence(run.pool, i, prompt, output, first=i))
    while not run.scheduler.idle:
        decoding = {s for s in run.scheduler.running if s.n_output}
        plan = run.step()
        assert decoding <= {c.seq for c in plan.chunks if c.draws}
        assert not plan.preempted


@pytest.mark.parametrize(
    "module", ["engine.scheduler", "engine.engine", "state.pool", "state.specs", "loading.memory"]
)
def test_bookkeeping_imports_no_torch(module: str) -> None:
    code = f"import sys, rbee_worker.{module}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
