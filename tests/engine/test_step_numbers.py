"""A step's numbers: those of decoding steps, kept in arrays that stay, against those made anew."""

from __future__ import annotations

import random

import numpy as np
import pytest

from rbee_worker.engine.messages import Submit
from rbee_worker.engine.scheduler import Chunk
from rbee_worker.engine.sequence import Sequence
from rbee_worker.engine.step_numbers import Step, StepBuilder
from rbee_worker.engine.stop import StopRules
from rbee_worker.ops.batch import PagedPlaces, StepNumbers
from rbee_worker.state.pool import StatePool
from rbee_worker.state.specs import StateGroup
from rbee_worker.types import SamplingParams
from tests.engine.fakes import FULL, MIXED, RECURRENT

SIZE = 4


class Steps:
    """Sequences of a pool, of which a step computes what a test says."""

    def __init__(self, groups: tuple[StateGroup, ...]) -> None:
        self.pool = StatePool(groups, tokens=900, block_size=SIZE, max_seqs=9, step_tokens=60)
        self.groups = groups
        self.rng = random.Random(3)
        self.made = 0

    def start(self, n: int) -> Sequence:
        """A sequence of n random tokens, none computed."""
        self.made += 1
        tokens = self.rng.choices(range(1000), k=n)
        params = SamplingParams(max_tokens=500)
        seq = Sequence(
            submit=Submit(seq=str(self.made), prompt_ids=tuple(tokens), params=params),
            tokens=tokens,
            limit=600,
            rules=StopRules(params, (), prompt=n, context=600),
            state=self.pool.new(tokens),
            arrival=self.made,
            arrived_s=0.0,
            rope_len=n,
        )
        self.pool.attach(seq.state)
        return seq

    def chunks(self, seqs: list[Sequence]) -> list[Chunk]:
        """All tokens that are not computed yet, one sequence after another; they draw."""
        found = []
        for seq in seqs:
            n = len(seq.tokens) - seq.state.planned
            assert self.pool.reserve(seq.state, n) == n
            found.append(Chunk(seq, seq.state, seq.state.planned - n, n, 1))
        return found

    def done(self, chunks: list[Chunk]) -> None:
        """They are computed, and each sequence has another token."""
        for chunk in chunks:
            self.pool.commit(chunk.state, chunk.count)
            chunk.seq.tokens.append(self.rng.randrange(1000))


LINES = ("tokens", "positions", "seq_starts", "kv_lens", "rope_lens", "sample_rows")


def same(step: Step, plain: Step) -> None:
    """Two steps say the same; a table may have more columns, of the sink."""
    got, want = step.numbers, plain.numbers
    for name in LINES:
        assert getattr(got, name).dtype == np.int64
        assert np.array_equal(getattr(got, name), getattr(want, name)), name
        assert getattr(got, name).flags.c_contiguous
    assert list(got.seq_starts_host) == list(want.seq_starts_host)
    assert list(got.kv_lens_host) == list(want.kv_lens_host)
    for mine, other in zip(got.places, want.places, strict=True):
        assert np.array_equal(mine.slots, other.slots)
        assert mine.slots.dtype == np.int64
        if isinstance(mine, PagedPlaces):
            assert isinstance(other, PagedPlaces)
            assert mine.table.dtype == np.int32
            columns = other.table.shape[1]
            assert np.array_equal(mine.table[:, :columns], other.table)
            assert not mine.table[:, columns:].any()
    assert step.draws == plain.draws
    assert step.indices == plain.indices
    assert step.scores == plain.scores


def anew(steps: Steps, chunks: list[Chunk]) -> Step:
    """The same numbers, in arrays of their own: as a step that also has a prompt in it gets."""
    return StepBuilder(steps.groups, SIZE)._mixed(chunks, None)


@pytest.mark.parametrize("groups", [FULL, MIXED, RECURRENT], ids=["full", "mixed", "recurrent"])
def test_the_same_numbers_as_any_other_step(groups: tuple[StateGroup, ...]) -> None:
    """Sequences come, grow over many blocks and go: rows get shorter and longer again."""
    steps = Steps(groups)
    builder = StepBuilder(groups, SIZE)
    seqs: list[Sequence] = []
    kept: dict[int, list[StepNumbers]] = {}
    for _ in range(300):
        if len(seqs) < 6 and steps.rng.random() < 0.1:
            seqs.append(steps.start(steps.rng.choice([1, 2, 7, 30])))
        if seqs and steps.rng.random() < 0.05:
            steps.pool.release(seqs.pop(steps.rng.randrange(len(seqs))).state)
        steps.rng.shuffle(seqs)
        chunks = steps.chunks(seqs)
        if not chunks:
            continue
        step = builder.build(chunks)
        same(step, anew(steps, chunks))
        assert step.numbers.takes is None
        if all(c.count == 1 for c in chunks):
            kept.setdefault(len(chunks), []).append(step.numbers)
        steps.done(chunks)
    assert sum(len(found) for found in kept.values()) > 100
    for found in kept.values():  # made again only when a sequence needs more columns
        assert len({id(numbers) for numbers in found}) <= 6


@pytest.mark.parametrize("groups", [FULL, MIXED, RECURRENT], ids=["full", "mixed", "recurrent"])
def test_buckets_are_filled_up_with_sinks(groups: tuple[StateGroup, ...]) -> None:
    """The first rows are those of the step itself, whatever the rows after them had before."""
    steps = Steps(groups)
    builder = StepBuilder(groups, SIZE, bucket=6)
    seqs = [steps.start(n) for n in (1, 2, 7, 30, 9, 13)]
    steps.done(steps.chunks(seqs))
    sizes: dict[int, set[int]] = {}
    for _ in range(60):
        live = steps.rng.sample(seqs, steps.rng.randint(1, 6))
        chunks = steps.chunks(live)
        step, plain, n = builder.build(chunks), anew(steps, chunks), len(live)
        numbers, rows = step.numbers, {1: 1, 2: 2, 3: 4, 4: 4, 5: 6, 6: 6}[n]
        sizes.setdefault(n, set()).add(id(numbers))
        assert step.draws == plain.draws
        assert step.indices == plain.indices
        assert numbers.seq_starts.tolist() == list(numbers.seq_starts_host) == [*range(rows + 1)]
        assert numbers.sample_rows.tolist() == [*range(rows)]
        for name, sink in (("tokens", 0), ("positions", 0), ("kv_lens", 1), ("rope_lens", 1)):
            want = getattr(plain.numbers, name).tolist()
            assert getattr(numbers, name).tolist() == want + [sink] * (rows - n), name
        assert list(numbers.kv_lens_host) == numbers.kv_lens.tolist()
        for mine, other in zip(numbers.places, plain.numbers.places, strict=True):
            assert mine.slots.tolist() == other.slots.tolist() + [0] * (rows - n)
            if isinstance(mine, PagedPlaces):
                assert isinstance(other, PagedPlaces)
                columns = other.table.shape[1]
                assert np.array_equal(mine.table[:n, :columns], other.table)
                assert not mine.table[n:].any()
        steps.done(chunks)
    assert max(map(len, sizes.values())) <= 4  # made again for longer tables only
    assert sizes[3] & sizes[4]


def test_a_token_that_is_not_known_is_taken_from_the_step_before() -> None:
    """Decoding, and a chunk whose last tokens are drawn: the first draw of each sequence counts."""
    steps = Steps(RECURRENT)
    builder = StepBuilder(RECURRENT, SIZE)
    one, two, new = steps.start(5), steps.start(3), steps.start(4)
    before = steps.chunks([one, two])
    for chunk in before:
        chunk.seq.drawing = 1
    drawn = {one: 0, two: 1}
    for seq in (two, one, new):
        assert steps.pool.reserve(seq.state, 4 if seq is new else 1)
    ahead = [Chunk(two, two.state, 3, 1, 1), Chunk(one, one.state, 5, 1, 1)]
    step = builder.build(ahead, drawn).numbers
    assert step.takes is not None
    assert (step.tokens.tolist(), step.takes.tolist()) == ([0, 0], [1, 0])
    step = builder.build([*ahead, Chunk(new, new.state, 0, 4, 1)], drawn).numbers
    assert step.takes is not None
    assert step.tokens.tolist() == [0, 0, *new.tokens]
    assert step.takes.tolist() == [1, 0, -1, -1, -1, -1]
    two.tokens.append(77)  # collected meanwhile
    step = builder.build(ahead, {one: 0}).numbers
    assert step.takes is not None
    assert (step.tokens.tolist(), step.takes.tolist()) == ([77, 0], [-1, 0])
    assert steps.pool.reserve(one.state, 2) == 2
    step = builder.build([Chunk(one, one.state, 4, 4, 3)], {one: 9}).numbers
    assert step.takes is not None
    assert step.tokens.tolist() == [one.tokens[4], 0, 0, 0]
    assert step.takes.tolist() == [-1, 9, 10, 11]


def test_a_chunk_may_draw_several_tokens() -> None:
    """Its last rows are sampled; each draws the token after it."""
    steps = Steps(FULL)
    seqs = [steps.start(6), steps.start(5), steps.start(4)]
    chunks = steps.chunks(seqs)
    chunks = [
        Chunk(c.seq, c.state, c.start, c.count, n) for c, n in zip(chunks, (3, 0, 1), strict=True)
    ]
    step = StepBuilder(FULL, SIZE).build(chunks)
    assert step.numbers.sample_rows.tolist() == [3, 4, 5, 14]
    assert step.draws == [chunks[0]] * 3 + [chunks[2]]
    assert step.indices == [4, 5, 6, 4]


def test_rows_that_score_a_prompt_come_after_those_that_draw() -> None:
    steps = Steps(FULL)
    seq, other = steps.start(6), steps.start(3)
    seq.scores = [None, *[None] * 2]  # two tokens scored
    chunks = [Chunk(seq, seq.state, 1, 4, 0), Chunk(other, other.state, 0, 3, 1)]
    for chunk in chunks:
        assert steps.pool.reserve(chunk.state, chunk.end)
    step = StepBuilder(FULL, SIZE).build(chunks)
    # rows 0 .. 3 have positions 1 .. 4; position 2 scores token 3, which is the next to be scored
    assert step.numbers.sample_rows.tolist() == [6, 1, 2, 3]
    [part] = step.scores
    assert part.targets == tuple(seq.tokens[3:6])
    assert step.draws == [chunks[1]]


def test_prompts_get_numbers_of_their_own() -> None:
    steps = Steps(RECURRENT)
    builder = StepBuilder(RECURRENT, SIZE)
    one = steps.start(1)
    chunks = steps.chunks([one])
    first = builder.build(chunks).numbers
    assert builder.build(chunks).numbers is first
    steps.done(chunks)
    chunks = steps.chunks([one])
    more = [*chunks, *steps.chunks([steps.start(9)])]
    assert builder.build(more).numbers.tokens.shape == (10,)
    assert builder.build(more).numbers is not builder.build(more).numbers
    quiet = [Chunk(c.seq, c.state, c.start, c.count, 0) for c in chunks]
    assert builder.build(quiet).draws == []


@pytest.mark.parametrize("bucket", [0, 4])
def test_no_key_goes_to_the_sink(bucket: int) -> None:
    steps = Steps(FULL)
    seq = steps.start(6)
    steps.done(steps.chunks([seq]))
    chunks = steps.chunks([seq])
    seq.state.tables[0][1] = 0
    with pytest.raises(AssertionError, match="sink"):
        StepBuilder(FULL, SIZE, bucket=bucket).build(chunks)
    with pytest.raises(AssertionError, match="sink"):
        anew(steps, chunks)


def test_an_unknown_token_is_not_planned_where_every_step_is_collected() -> None:
    steps = Steps(FULL)
    seq = steps.start(6)
    assert steps.pool.reserve(seq.state, 7)
    for chunk in (Chunk(seq, seq.state, 6, 1, 1), Chunk(seq, seq.state, 4, 3, 1)):
        with pytest.raises((AssertionError, IndexError)):
            StepBuilder(FULL, SIZE).build([chunk])


@pytest.mark.parametrize("groups", [FULL, MIXED], ids=["full", "mixed"])
def test_drafted_tokens_are_rows_that_draw(groups: tuple[StateGroup, ...]) -> None:
    """A step with drafts has the numbers of one whose tokens are known, and draws after each."""
    steps = Steps(groups)
    one, two = steps.start(6), steps.start(3)
    steps.done(steps.chunks([one, two]))
    draft = (11, 12, 13)
    chunks = steps.chunks([one, two])
    assert steps.pool.widen(one.state, 3) == 3
    chunks[0] = Chunk(one, one.state, 6, 4, 4, draft)
    step = StepBuilder(groups, SIZE).build(chunks)
    assert step.numbers.tokens.tolist() == [one.tokens[-1], *draft, two.tokens[-1]]
    assert step.numbers.sample_rows.tolist() == [0, 1, 2, 3, 4]
    assert step.draws == [chunks[0]] * 4 + [chunks[1]]
    assert step.indices == [7, 8, 9, 10, 4]
    assert step.expected == [11, 12, 13, -1, -1]
    known = Chunk(one, one.state, 6, 4, 4)
    one.tokens += draft
    plain = StepBuilder(groups, SIZE).build([known, chunks[1]])
    assert plain.expected == []
    for name in LINES:
        assert np.array_equal(getattr(step.numbers, name), getattr(plain.numbers, name)), name
    for mine, other in zip(step.numbers.places, plain.numbers.places, strict=True):
        assert np.array_equal(mine.slots, other.slots)
