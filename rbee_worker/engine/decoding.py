"""Plan -> `Batch` where every sequence computes one token and draws the next: most steps are so.

The tensors of such a batch are made once for a number of sequences; a step writes its numbers into
them through plain memory. After a step, the weights it read have pushed everything else out of the
caches: the first operation on a tensor then takes 30 to 100 microseconds and plain Python a few,
so that a batch of new tensors took longer than all else that is done between two steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence as Seq

import numpy as np
import torch
from torch import Tensor

from rbee_worker.engine.batch import StepBatch, build_batch
from rbee_worker.engine.scheduler import Chunk
from rbee_worker.ops.batch import Batch, FixedState, PagedState
from rbee_worker.state.tensors import StateTensors


class Batches:
    """Builds every step's batch. A decoding step's is good until the next step is built."""

    def __init__(self, tensors: StateTensors, device: str = "cpu") -> None:
        self._tensors, self._device = tensors, device
        self._decoding: dict[int, Decoding] = {}  # by number of sequences

    def build(self, chunks: Seq[Chunk]) -> StepBatch:
        """The batch of a plan's chunks, in the plan's order."""
        longest = 0
        for chunk in chunks:
            # a sequence's first token finds a state to be cleared
            if chunk.count != 1 or not chunk.draws or not chunk.start or self._device != "cpu":
                return build_batch(chunks, self._tensors, self._device)
            longest = max(longest, chunk.start + 1)
        return StepBatch(self._of(len(chunks), longest).fill(chunks), tuple(chunks), ())

    def _of(self, sequences: int, longest: int) -> Decoding:
        columns = -(-longest // self._tensors.block_size)
        found = self._decoding.get(sequences)
        if found is None or found.columns < columns:
            room = 1 << columns.bit_length()  # a power of two: room to grow
            found = self._decoding[sequences] = Decoding(self._tensors, sequences, room)
        return found


class Decoding:
    """The batch of `sequences` sequences that decode, with block tables of `columns` columns."""

    def __init__(self, tensors: StateTensors, sequences: int, columns: int) -> None:
        self.columns, self._size = columns, tensors.block_size
        states = list(zip(tensors.paged, tensors.fixed, strict=True))
        self._paged = [pair is not None for pair, _ in states]
        # a line each: tokens, positions, kv_lens, rope_lens, then the slots of every state group
        numbers = np.zeros((4 + len(states), sequences), np.int64)
        self._numbers = memoryview(numbers).cast("B").cast("q")  # type: ignore[arg-type]
        self._tables: list[_Table] = []
        self._lens = [0] * sequences
        tokens, positions, kv_lens, rope_lens, *slots = torch.from_numpy(numbers).unbind()
        found: list[PagedState | FixedState] = []
        for (pair, fixed), at in zip(states, slots, strict=True):
            if pair is not None:
                self._tables.append(_Table(sequences, columns))
                found.append(PagedState(*pair, self._tables[-1].tensor, at))
            else:
                assert fixed is not None
                found.append(FixedState(fixed, at))
        starts = torch.arange(sequences + 1)
        self._batch = Batch(
            tokens=tokens,
            positions=positions,
            seq_starts=starts,
            kv_lens=kv_lens,
            rope_lens=rope_lens,
            sample_rows=starts[:-1],
            state=tuple(found),
            seq_starts_host=tuple(range(sequences + 1)),
            kv_lens_host=self._lens,
        )

    def fill(self, chunks: Seq[Chunk]) -> Batch:
        """The batch, with these chunks' numbers in it: one token each."""
        tokens, positions, lens, rope_lens = [], [], [], []
        for chunk in chunks:
            position, seq = chunk.start, chunk.seq
            tokens.append(seq.tokens[position])
            positions.append(position)
            lens.append(position + 1)
            rope_lens.append(seq.rope_len)
        self._lens[:] = lens
        numbers = [*tokens, *positions, *lens, *rope_lens]
        number = 0
        for paged in self._paged:
            if paged:
                numbers += self._slots(number, chunks)
                number += 1
            else:
                numbers += [chunk.state.slot for chunk in chunks]
        self._numbers[:] = array("q", numbers)
        return self._batch

    def _slots(self, number: int, chunks: Seq[Chunk]) -> list[int]:
        """Where the keys of a paged group go; its table is written."""
        write, size, slots = self._tables[number].write, self._size, []
        for row, chunk in enumerate(chunks):
            blocks = chunk.state.tables[number]
            write(row, blocks)
            slots.append(blocks[chunk.start // size] * size + chunk.start % size)
        assert min(slots) >= size, "a key would go to the sink"
        return slots


class _Table:
    """A block table int32 [sequences, columns] and how much of each row is in use."""

    def __init__(self, sequences: int, columns: int) -> None:
        numbers = np.zeros((sequences, columns), np.int32)
        self.tensor: Tensor = torch.from_numpy(numbers)
        self._columns, self._used = columns, [0] * sequences
        self._numbers = memoryview(numbers).cast("B").cast("i")  # type: ignore[arg-type]

    def write(self, row: int, blocks: array[int]) -> None:
        """A sequence's blocks; the rest of its row is the sink."""
        first, n, before = row * self._columns, len(blocks), self._used[row]
        self._numbers[first : first + n] = blocks
        if before > n:
            self._numbers[first + n : first + before] = array("i", bytes(4 * (before - n)))
        self._used[row] = n
