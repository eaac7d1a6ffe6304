"""A model whose next token depends on the keys it finds in the cache, and an engine around it.

The fake writes every token and its position into the key cache through `slots` and, for each row,
reads the sequence back through the block table: a block that is lost, shared wrongly, overwritten
or sunk too early gives other tokens than the same request alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rbee_worker.engine.engine import Engine
from rbee_worker.engine.messages import Submit
from rbee_worker.engine.rope_length import RopeLengths
from rbee_worker.engine.runner import Runner
from rbee_worker.engine.sampler import Prepared, Sampler
from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Batch, FixedState, Ints
from rbee_worker.ops.reference.sampling.torch_sampling import TorchSampling
from rbee_worker.ops.reference.state import TorchState
from rbee_worker.ops.sampling import Sampling
from rbee_worker.state.pool import StatePool
from rbee_worker.state.specs import Fixed, PagedKV, StateGroup
from rbee_worker.types import EosToken, SamplingParams
from tests.engine.late import Device, LateMemory, LateModel, LateSampling

VOCAB = 64
FULL = (StateGroup(PagedKV(1, 2, 1), 1),)
MIXED = (StateGroup(PagedKV(1, 2, 1), 1), StateGroup(PagedKV(1, 2, 1, window=6), 2))
WINDOWED = (StateGroup(PagedKV(1, 2, 1, window=5), 1),)
RECURRENT = (StateGroup(PagedKV(1, 2, 1), 1), StateGroup(Fixed((("h", (1,)),)), 1))
MOD = 4093
LONG = 1000
BACKENDS = ["now", "late", "late, padded"]  # results at once; one step late, see late.py
BACKEND = "now"


def digest(seen: Iterable[Sequence[int]], state: int) -> int:
    """An order-sensitive number of what attention would see: (token, position) of each key."""
    for token, position in seen:
        state = (state * 31 + token * 7 + position + 1) % MOD
    return state


def expected(tokens: list[int], groups: tuple[StateGroup, ...], switch: int | None = None) -> int:
    """The digest of the last position of a sequence, from its tokens alone.

    switch: all positions of a sequence that is longer lie LONG further on.
    """
    total = 0
    shift = LONG if switch is not None and len(tokens) > switch else 0
    seen = [(token, shift + i) for i, token in enumerate(tokens)]
    for group in groups:
        spec = group.spec
        if isinstance(spec, Fixed):
            total += digest(seen, 5)
        else:
            first = 0 if spec.window is None else max(0, len(tokens) - spec.window)
            total += digest(seen[first:], 0) * group.layers
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
        """One row: the digest of what it sees, int64 [N, 1]."""
        tokens, positions = np.asarray(batch.tokens), np.asarray(batch.positions)
        self.steps.append(len(tokens))
        if len(tokens) > self.fail_rows or (tokens == self.fail_on).any():
            raise self.fail_with
        turned = positions + self._shift(batch)
        rows = np.asarray(batch.sample_rows).tolist()
        assert len(set(rows)) == len(rows)
        out = np.zeros(len(tokens), np.int64)
        for group, state in zip(self.groups, batch.state, strict=True):
            if isinstance(state, FixedState):
                self._recur(batch, state, turned, out)
                continue
            assert isinstance(group.spec, PagedKV)
            slots, table = np.asarray(state.slots), np.asarray(state.table)
            for layer in range(group.layers):
                k = np.asarray(state.k)[layer]  # [blocks, block_size, heads, 2]
                k.reshape(-1, 2)[slots] = np.stack((tokens, turned), 1)
                for b, (start, end) in enumerate(pairwise(batch.seq_starts_host)):
                    blocks = table[b, : -(-batch.kv_lens_host[b] // k.shape[1])]
                    seen = k[blocks].reshape(-1, 2).astype(int).tolist()
                    for row in range(start, end):
                        last = int(positions[row]) + 1
                        first = 0 if group.spec.window is None else max(0, last - group.spec.window)
                        out[row] += digest(seen[first:last], 0)
        return torch.from_numpy(out[:, None] % MOD)

    def _shift(self, batch: Batch) -> Ints:
        """What is added to each row's position."""
        lens = np.repeat(np.asarray(batch.rope_lens), np.diff(np.asarray(batch.seq_starts)))
        return LONG * (lens > (1 << 40 if self.switch is None else self.switch))

    def _recur(self, batch: Batch, state: FixedState, turned: Ints, out: Ints) -> None:
        (cells,) = state.tensors.values()
        tokens, slots = np.asarray(batch.tokens), np.asarray(state.slots)
        for b, (start, end) in enumerate(pairwise(batch.seq_starts_host)):
            cell = np.asarray(cells)[0, slots[b]]
            for row in range(start, end):
                fresh = batch.positions[row] == 0 and cell[0] == 0
                before = 5 if fresh else int(cell[0]) - 1
                after = digest([[int(tokens[row]), int(turned[row])]], before)
                cell[0] = after + 1
                out[row] += after

    def head(self, rows: Tensor) -> Tensor:
        """Logits [S, vocab] of digests."""
        if not len(rows):
            return torch.empty(0, self.vocab_size)
        return torch.stack([next_logits(number) for number in rows[:, 0].tolist()])

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

    def prepare(self, slots: Sequence[int], indices: Sequence[int], *more: Any) -> Prepared:
        assert self.slots.issuperset(slots)
        return super().prepare(slots, indices, *more)


def make_engine(
    model: FakeModel | None = None,
    *,
    tokens: int = 256,
    block_size: int = 4,
    token_budget: int = 16,
    max_seqs: int = 8,
    prefix_cache: bool = True,
    kv_cache: bool = True,
    speculate: str = "off",
    sampler: type[Sampler] = CheckedSampler,
    backend: str | None = None,
    clock: Callable[[], float] | None = None,
) -> Engine:
    """An engine around the fake model. backend: see BACKENDS; None: what a test runs with. clock:
    the runner's."""
    model, backend = model or FakeModel(), backend or BACKEND
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
    memory = TorchState(
        model.groups, pool.n_blocks, pool.n_slots, block_size=block_size, dtype="f32"
    )
    executable, sampling = model, TorchSampling(torch.device("cpu"))
    if backend != "now":
        device = Device()
        executable, memory = LateModel(model, device), LateMemory(memory, device)
        sampling = LateSampling(sampling, device)
    runner = Runner(
        executable,
        memory,
        sampler(model.vocab_size, max_seqs, sampling),
        block_size=block_size,
        max_seqs=max_seqs,
        buckets=backend == "late, padded",
        overlaps=backend != "now",
        clock=clock,
    )
    return Engine(
        runner,
        pool,
        token_budget=token_budget,
        max_seqs=max_seqs,
        context=model.context,
        kv_cache=kv_cache,
        speculate=speculate,
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
