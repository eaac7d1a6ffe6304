"""Runs a model on chosen rows without a scheduler: tests decide what shares a step.

Blocks and slots are handed out in a shuffled order, so that a wrong table shows. The memory is the
backend's own, and every batch is staged by it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rbee_worker.ops.batch import Batch, FixedPlaces, PagedPlaces, Places, StepNumbers
from rbee_worker.ops.cpu.runtime.state import CpuState
from rbee_worker.ops.executable import StateMemory
from rbee_worker.ops.reference.state import TorchState
from rbee_worker.state.specs import Fixed

MEMORY = {"cpu": CpuState, "reference": TorchState}  # by the name of a model's operations


@dataclass
class Sequence:
    """A sequence's tokens so far, the blocks it has, one list a paged group, and its slot."""

    tokens: list[int]
    slot: int
    computed: int = 0
    blocks: dict[int, list[int]] = field(default_factory=dict)


class Driver:
    """`feed([(seq, n)])` computes the next n tokens of each sequence in one step.

    model: a `Decoder`, or what a backend makes of one. dtype: of keys and values.
    """

    def __init__(
        self,
        model: Any,
        *,
        blocks: int = 64,
        slots: int = 24,
        block_size: int = 16,
        dtype: str = "f32",
    ) -> None:
        self.model = model
        self.block_size = block_size
        fixed = [isinstance(group.spec, Fixed) for group in model.groups]
        counts = [0 if is_fixed else blocks for is_fixed in fixed]
        make = MEMORY.get(model.ops.name) or _on_device(model.ops)
        self.memory: StateMemory = make(
            model.groups, counts, slots, block_size=block_size, dtype=dtype
        )
        self._blocks = {g: _shuffled(blocks, g) for g, is_fixed in enumerate(fixed) if not is_fixed}
        self._slots = _shuffled(slots, 99)
        self.adapters: list[int] = []  # the slot of each sequence's adapter; empty: none has one

    def start(self, tokens: list[int]) -> Sequence:
        """A sequence of which nothing is computed."""
        slot = self._slots.pop()
        self.memory.clear([slot])
        return Sequence(list(tokens), slot, 0, {group: [] for group in self._blocks})

    def fork(self, seq: Sequence) -> Sequence:
        """A sequence that goes on from a copy of what another has computed in fixed groups."""
        assert not seq.blocks
        slot = self._slots.pop()
        self.memory.copy([(seq.slot, slot)])
        return Sequence(list(seq.tokens), slot, seq.computed)

    def feed(self, counts: list[tuple[Sequence, int]], rope_len: int | None = None) -> list[Tensor]:
        """Logits [n, vocab] of the next n tokens of each sequence, all in one batch.

        rope_len: the prompt's length where it is not all of the sequence's tokens.
        """
        batch = self.batch(counts, rope_len)
        with torch.inference_mode():
            logits = torch.as_tensor(self.model.head(self.model.hidden(batch))).clone().cpu()
        for seq, n in counts:
            seq.computed += n
        return list(logits.split([n for _, n in counts]))

    def batch(self, counts: list[tuple[Sequence, int]], rope_len: int | None = None) -> Batch:
        """The batch of these rows, which are not counted as computed; as `feed` takes them."""
        return self.memory.stage(self.numbers(counts, rope_len))

    def numbers(
        self, counts: list[tuple[Sequence, int]], rope_len: int | None = None
    ) -> StepNumbers:
        """The same as numbers on the host."""
        tokens = [t for s, n in counts for t in s.tokens[s.computed : s.computed + n]]
        positions = [p for s, n in counts for p in range(s.computed, s.computed + n)]
        starts = (0, *accumulate(n for _, n in counts))
        kv_lens = tuple(s.computed + n for s, n in counts)
        return StepNumbers(
            tokens=_ints(tokens),
            positions=_ints(positions),
            seq_starts=_ints(starts),
            kv_lens=_ints(kv_lens),
            rope_lens=_ints([rope_len or len(s.tokens) for s, _ in counts]),
            sample_rows=_ints([end - 1 for end in starts[1:]]),
            places=tuple(self._places(g, counts) for g in range(len(self.model.groups))),
            seq_starts_host=starts,
            kv_lens_host=kv_lens,
            adapters=np.repeat(_ints(self.adapters), [n for _, n in counts])
            if self.adapters
            else None,
        )

    def _places(self, group: int, counts: list[tuple[Sequence, int]]) -> Places:
        if group not in self._blocks:
            return FixedPlaces(_ints([s.slot for s, _ in counts]))
        size = self.block_size
        for seq, n in counts:
            blocks = seq.blocks[group]
            while len(blocks) * size < seq.computed + n:
                blocks.append(self._blocks[group].pop())
        table = np.zeros(
            (len(counts), max((len(s.blocks[group]) for s, _ in counts), default=1)), np.int32
        )
        for row, (seq, _) in zip(table, counts, strict=True):
            row[: len(seq.blocks[group])] = seq.blocks[group]
        slots = [
            s.blocks[group][p // size] * size + p % size
            for s, n in counts
            for p in range(s.computed, s.computed + n)
        ]
        return PagedPlaces(table, _ints(slots))


def _ints(numbers: Any) -> Any:
    return np.array(numbers, np.int64)


def _on_device(ops: Any) -> Any:
    """What makes the cuda backend's memory; imported here, as few tests need Triton."""
    from rbee_worker.ops.cuda.state import CudaState

    return partial(CudaState, device=ops.device, drawn=ops.drawn)


def _shuffled(count: int, seed: int) -> list[int]:
    """1 .. count - 1; 0 is the sink."""
    order = list(range(1, count))
    random.Random(seed).shuffle(order)
    return order
