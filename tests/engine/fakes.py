"""A model whose next token depends on the keys it finds in the cache, and an engine around it.

The fake writes every token and its position into the key cache through `slots` and, for each row,
reads the sequence back through the block table: a block that is lost, shared wrongly, overwritten
or sunk too early gives other tokens than the same request alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Submit
from rbee_worker.engine.rope_length import RopeLengths
from rbee_worker.engine.runner import Runner
from rbee_worker.engine.sampler import Prepared, Sampler
from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Batch, FixedState, PagedState
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling
from rbee_worker.ops.reference.state import ReferenceState
from rbee_worker.ops.sampling import Sampling
from rbee_worker.state.pool import StatePool
from rbee_worker.state.specs import Fixed, PagedKV, StateGroup
from rbee_worker.types import EosToken, SamplingParams

VOCAB = 64
FULL = (StateGroup(PagedKV(1, 2, 1), 1),)
MIXED = (StateGroup(PagedKV(1, 2, 1), 1), StateGroup(PagedKV(1, 2, 1, window=6), 2))
WINDOWED = (StateGroup(PagedKV(1, 2, 1, window=5), 1),)
RECURRENT = (StateGroup(PagedKV(1, 2, 1), 1), StateGroup(Fixed((("h", (1,)),)), 1))
MOD = 4093
LONG = 1000


def digest(tokens: list[int], positions: list[int], state: int) -> int:
    """An order-sensitive number of what attention would see."""
    for token, position in zip(tokens, positions, strict=True):
        state = (state * 31 + token * 7 + position + 1) % MOD
    return state


def expected(tokens: list[int], groups: tuple[StateGroup, ...], switch: int | None = None) -> int:
    """The digest of the last position of a sequence, from its tokens alone.

    switch: all positions of a sequence that is longer lie LONG further on.
    """
    total = 0
    last = len(tokens) - 1
    shift = LONG if switch is not None and len(tokens) > switch else 0
    positions = [shift + i for i in range(len(tokens))]
    for group in groups:
        spec = group.spec
        if isinstance(spec, Fixed):
            total += digest(tokens, positions, 5)
        else:
            first = 0 if spec.window is None else max(0, last - spec.window + 1)
            total += digest(tokens[first:], positions[first:], 0) * group.layers
    return total % MOD


def next_logits(number: int) -> Tensor:
    """Logits [vocab] of a digest: distinct values, the argmax anywhere."""
    order = torch.arange(VOCAB, dtype=torch.int64)
    return ((order * 17 + number) * 29 % 97).float() / 8


def greedy(
    prompt: list[int],
    n: int,
    groups: tuple[StateGroup, ...] = FULL,
    switch: int | None = None,
) -> list[int]:
    """What greedy decoding must give, without any cache."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(int(next_logits(expected(tokens, groups, switch)).argmax()))
    return tokens[len(prompt) :]


@dataclass
class FakeModel:
    """See the module. `fail_on`: a token that makes a step raise; `steps`: sizes of the steps;
    `switch`: rope length past which positions lie LONG further on."""

    groups: tuple[StateGroup, ...] = FULL
    vocab_size: int = VOCAB
    context: int = 256
    fail_on: int = -1
    fail_with: Exception = field(default_factory=lambda: RuntimeError("kernel failed"))
    fail_rows: int = 1 << 30  # more rows than this raise
    switch: int | None = None
    steps: list[int] = field(default_factory=list)

    def hidden(self, batch: Batch) -> Tensor:
        """One row: the digest of what it sees."""
        n = batch.tokens.shape[0]
        self.steps.append(n)
        if n > self.fail_rows or (batch.tokens == self.fail_on).any():
            raise self.fail_with
        out = torch.zeros(n, 1)
        starts = batch.seq_starts_host
        assert len(set(batch.sample_rows.tolist())) == len(batch.sample_rows)
        for group, state in zip(self.groups, batch.state, strict=True):
            if isinstance(state, FixedState):
                self._recur(batch, state, out)
                continue
            assert isinstance(state, PagedState)
            spec = group.spec
            assert isinstance(spec, PagedKV)
            for layer in range(group.layers):
                k = state.k[layer].flatten(0, 1)[:, 0]  # [slots, 2]
                turned = batch.positions + self._shift(batch)
                k[state.slots] = torch.stack((batch.tokens, turned), 1).to(k.dtype)
                for b in range(len(starts) - 1):
                    for row in range(starts[b], starts[b + 1]):
                        position = int(batch.positions[row])
                        first = 0 if spec.window is None else max(0, position - spec.window + 1)
                        at = torch.arange(first, position + 1)
                        size = state.k.shape[2]
                        slots = state.table[b, at // size].long() * size + at % size
                        seen = k[slots].long()
                        out[row, 0] += digest(seen[:, 0].tolist(), seen[:, 1].tolist(), 0)
        return out % MOD

    def _shift(self, batch: Batch) -> Tensor:
        lens = batch.rope_lens.repeat_interleave(batch.seq_starts.diff())
        return LONG * (lens > (1 << 40 if self.switch is None else self.switch))

    def _recur(self, batch: Batch, state: FixedState, out: Tensor) -> None:
        starts, shift = batch.seq_starts_host, self._shift(batch)
        for b in range(len(starts) - 1):
            cell = state.tensors["h"][0, int(state.slots[b])]
            for row in range(starts[b], starts[b + 1]):
                token, position = int(batch.tokens[row]), int(batch.positions[row])
                before = 5 if position == 0 and float(cell[0]) == 0 else int(cell[0]) - 1
                after = digest([token], [position + int(shift[row])], before)
                cell[0] = after + 1
                out[row, 0] += after

    def head(self, rows: Tensor) -> Tensor:
        """Logits [S, vocab] of digests."""
        return torch.stack([next_logits(int(r)) for r in rows[:, 0]])

    def logits(self, batch: Batch) -> Tensor:
        """Logits [S, vocab] of the sampled rows."""
        return self.head(self.hidden(batch)[batch.sample_rows])


class CheckedSampler(Sampler):
    """The sampler; complains about slots that it does not know."""

    def __init__(self, vocab_size: int, max_seqs: int, sampling: Sampling) -> None:
        super().__init__(vocab_size, max_seqs, sampling)
        self.slots: set[int] = set()

    def add(self, slot: int, *args: Any, **options: Any) -> bool:
        assert slot not in self.slots
        waits = super().add(slot, *args, **options)
        self.slots.add(slot)
        return waits

    def remove(self, slot: int) -> None:
        self.slots.discard(slot)
        super().remove(slot)

    def prepare(self, slots: Sequence[int], indices: Sequence[int]) -> Prepared:
        assert self.slots.issuperset(slots)
        return super().prepare(slots, indices)


def make_engine(
    model: FakeModel | None = None,
    *,
    tokens: int = 256,
    block_size: int = 4,
    token_budget: int = 16,
    max_seqs: int = 8,
    prefix_cache: bool = True,
    kv_cache: bool = True,
    sampler: type[Sampler] = CheckedSampler,
) -> Engine:
    """An engine around the fake model."""
    model = model or FakeModel()
    pool = StatePool(
        model.groups,
        tokens=tokens,
        block_size=block_size,
        max_seqs=max_seqs,
        step_tokens=token_budget,
        prefix_cache=prefix_cache and kv_cache,
        snapshots=4,
        snapshot_tokens=2 * block_size,
    )
    memory = ReferenceState(
        model.groups, pool.n_blocks, pool.n_slots, block_size=block_size, dtype="f32"
    )
    sampling = TorchSampling(torch.device("cpu"))
    runner = Runner(
        model,
        memory,
        sampler(model.vocab_size, max_seqs, sampling),
        block_size=block_size,
        max_seqs=max_seqs,
    )
    return Engine(
        runner,
        pool,
        token_budget=token_budget,
        max_seqs=max_seqs,
        context=model.context,
        kv_cache=kv_cache,
        ropes=RopeLengths(() if model.switch is None else (bent(model.switch),)),
    )


def bent(switch: int) -> RopeSpec:
    """Rotary positions whose frequencies change for sequences longer than `switch`."""
    return RopeSpec(2, (1.0,), long_inv_freq=(0.5,), switch=switch)


EOS = (EosToken(id=2, text="</s>", origins=("config.json", "generation_config.json")),)


def ask(seq: str, prompt: list[int], n: int = 8, **kw: Any) -> Submit:
    """A greedy request for n tokens; other keywords are parameters or fields of the message."""
    names = set(SamplingParams.__struct_fields__)
    params = {k: v for k, v in kw.items() if k in names}
    fields = {k: v for k, v in kw.items() if k not in names}
    return Submit(
        seq=seq,
        prompt_ids=tuple(prompt),
        params=SamplingParams(temperature=0.0, max_tokens=n, **params),
        **fields,
    )
