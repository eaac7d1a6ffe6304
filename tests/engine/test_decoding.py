"""Batches of decoding steps: the numbers `build_batch` gives, in tensors that stay the same."""

from __future__ import annotations

import random

import pytest
import torch

from rbee_worker.engine.batch import StepBatch, build_batch
from rbee_worker.engine.decoding import Batches
from rbee_worker.engine.messages import Submit
from rbee_worker.engine.scheduler import Chunk
from rbee_worker.engine.sequence import Sequence
from rbee_worker.engine.stop import StopRules
from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.state.pool import StatePool
from rbee_worker.state.specs import StateGroup
from rbee_worker.state.tensors import StateTensors
from rbee_worker.types import SamplingParams
from tests.engine.fakes import FULL, MIXED, RECURRENT

SIZE = 4


class Steps:
    """Sequences of a pool, of which a step computes what a test says."""

    def __init__(self, groups: tuple[StateGroup, ...]) -> None:
        self.pool = StatePool(groups, tokens=900, block_size=SIZE, max_seqs=9, step_tokens=60)
        self.tensors = StateTensors(
            groups, self.pool.n_blocks, self.pool.n_slots, block_size=SIZE, dtype="f32"
        )
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
            found.append(Chunk(seq, seq.state, seq.state.planned - n, n, True))
        return found

    def done(self, chunks: list[Chunk]) -> None:
        """They are computed, and each sequence has another token."""
        for chunk in chunks:
            self.pool.commit(chunk.state, chunk.count)
            chunk.seq.tokens.append(self.rng.randrange(1000))


def same(step: StepBatch, plain: StepBatch) -> None:
    """Two batches say the same; a table may have more columns, of the sink."""
    got, want = step.batch, plain.batch
    for name in ("tokens", "positions", "seq_starts", "kv_lens", "rope_lens", "sample_rows"):
        assert getattr(got, name).dtype == torch.int64
        assert torch.equal(getattr(got, name), getattr(want, name)), name
        assert getattr(got, name).is_contiguous()
    assert list(got.seq_starts_host) == list(want.seq_starts_host)
    assert list(got.kv_lens_host) == list(want.kv_lens_host)
    for mine, other in zip(got.state, want.state, strict=True):
        assert torch.equal(mine.slots, other.slots)
        if isinstance(mine, PagedState):
            assert isinstance(other, PagedState)
            assert mine.k is other.k
            assert mine.v is other.v
            assert mine.table.dtype == torch.int32
            columns = other.table.shape[1]
            assert torch.equal(mine.table[:, :columns], other.table)
            assert not mine.table[:, columns:].any()
    assert step.draws == plain.draws
    assert step.scores == plain.scores


@pytest.mark.parametrize("groups", [FULL, MIXED, RECURRENT], ids=["full", "mixed", "recurrent"])
def test_the_same_numbers_as_any_other_batch(groups: tuple[StateGroup, ...]) -> None:
    """Sequences come, grow over many blocks and go: rows get shorter and longer again."""
    steps = Steps(groups)
    batches = Batches(steps.tensors)
    seqs: list[Sequence] = []
    kept: dict[int, list[Batch]] = {}
    for _ in range(300):
        if len(seqs) < 6 and steps.rng.random() < 0.1:
            seqs.append(steps.start(steps.rng.choice([1, 2, 7, 30])))
        if seqs and steps.rng.random() < 0.05:
            steps.pool.release(seqs.pop(steps.rng.randrange(len(seqs))).state)
        steps.rng.shuffle(seqs)
        chunks = steps.chunks(seqs)
        if not chunks:
            continue
        step = batches.build(chunks)
        same(step, build_batch(chunks, steps.tensors))
        if all(c.count == 1 and c.start for c in chunks):
            kept.setdefault(len(chunks), []).append(step.batch)
        steps.done(chunks)
    assert sum(len(found) for found in kept.values()) > 100
    for found in kept.values():  # made again only when a sequence needs more columns
        assert len({id(batch) for batch in found}) <= 6


def test_first_tokens_prompts_and_other_devices_get_batches_of_their_own() -> None:
    steps = Steps(RECURRENT)
    batches = Batches(steps.tensors)
    (fixed,) = (tensors for tensors in steps.tensors.fixed if tensors is not None)
    fixed["h"].fill_(7.0)
    one = steps.start(1)
    chunks = steps.chunks([one])
    first = batches.build(chunks).batch
    assert not fixed["h"][:, one.state.slot].any()
    steps.done(chunks)
    fixed["h"].fill_(7.0)
    chunks = steps.chunks([one])
    second = batches.build(chunks).batch
    assert fixed["h"][:, one.state.slot].all()
    assert batches.build(chunks).batch is second is not first
    assert Batches(steps.tensors, "meta").build(chunks).batch.tokens.is_meta
    more = [*chunks, *steps.chunks([steps.start(9)])]
    assert batches.build(more).batch.tokens.shape == (10,)
    quiet = [Chunk(c.seq, c.state, c.start, c.count, False) for c in chunks]
    assert batches.build(quiet).draws == ()


def test_no_key_goes_to_the_sink() -> None:
    steps = Steps(FULL)
    seq = steps.start(6)
    steps.done(steps.chunks([seq]))
    chunks = steps.chunks([seq])
    seq.state.tables[0][1] = 0
    with pytest.raises(AssertionError, match="sink"):
        Batches(steps.tensors).build(chunks)
