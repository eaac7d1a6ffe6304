"""Runs a model on chosen rows without a scheduler: tests decide what shares a step.

Blocks are handed out in a shuffled order, so that a wrong table shows.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import torch
from torch import Tensor

from rbee_worker.models.base import Decoder
from rbee_worker.ops.batch import Batch, PagedState
from rbee_worker.state.specs import PagedKV


@dataclass
class Sequence:
    """A sequence's tokens so far and the blocks it has, one list a state group."""

    tokens: list[int]
    computed: int = 0
    blocks: list[list[int]] = field(default_factory=list)


class Driver:
    """`feed({seq: n})` computes the next n tokens of each sequence in one step."""

    def __init__(self, model: Decoder, *, blocks: int = 64, block_size: int = 16) -> None:
        self.model = model
        self.block_size = block_size
        self.k, self.v, self.free = [], [], []
        for number, group in enumerate(model.groups):
            assert isinstance(group.spec, PagedKV)
            shape = (group.layers, blocks, block_size, group.spec.heads)
            self.k.append(torch.zeros(*shape, group.spec.k_dim))
            self.v.append(torch.zeros(*shape, group.spec.v_dim))
            order = list(range(1, blocks))
            random.Random(number).shuffle(order)
            self.free.append(order)

    def start(self, tokens: list[int]) -> Sequence:
        return Sequence(list(tokens), 0, [[] for _ in self.model.groups])

    def feed(self, counts: list[tuple[Sequence, int]], rope_len: int | None = None) -> list[Tensor]:
        """Logits [n, vocab] of the next n tokens of each sequence, all in one batch.

        rope_len: the prompt's length where it is not all of the sequence's tokens.
        """
        batch = self.batch(counts, rope_len)
        with torch.inference_mode():
            logits = self.model.head(self.model.hidden(batch))
        for seq, n in counts:
            seq.computed += n
        return list(logits.split([n for _, n in counts]))

    def batch(self, counts: list[tuple[Sequence, int]], rope_len: int | None = None) -> Batch:
        """The batch of these rows, which are not counted as computed; as `feed` takes them."""
        for seq, n in counts:
            for group, blocks in enumerate(seq.blocks):
                while len(blocks) * self.block_size < seq.computed + n:
                    blocks.append(self.free[group].pop())
        tokens = [t for s, n in counts for t in s.tokens[s.computed : s.computed + n]]
        positions = [p for s, n in counts for p in range(s.computed, s.computed + n)]
        starts = [0]
        for _, n in counts:
            starts.append(starts[-1] + n)
        kv_lens = [s.computed + n for s, n in counts]
        state = []
        for group in range(len(self.model.groups)):
            width = max(len(s.blocks[group]) for s, _ in counts)
            rows = [s.blocks[group] + [0] * (width - len(s.blocks[group])) for s, _ in counts]
            slots = [
                s.blocks[group][p // self.block_size] * self.block_size + p % self.block_size
                for s, n in counts
                for p in range(s.computed, s.computed + n)
            ]
            table = torch.tensor(rows, dtype=torch.int32)
            state.append(PagedState(self.k[group], self.v[group], table, torch.tensor(slots)))
        return Batch(
            tokens=torch.tensor(tokens),
            positions=torch.tensor(positions),
            seq_starts=torch.tensor(starts),
            kv_lens=torch.tensor(kv_lens),
            rope_lens=torch.tensor([rope_len or len(s.tokens) for s, _ in counts]),
            sample_rows=torch.tensor([e - 1 for e in starts[1:]]),
            state=tuple(state),
            seq_starts_host=tuple(starts),
            kv_lens_host=tuple(kv_lens),
        )
