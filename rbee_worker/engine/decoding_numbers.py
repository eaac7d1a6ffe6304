"""The numbers of a decoding step, in which every sequence computes one token and draws the next.

The arrays of such a step are made once per number of sequences; each step writes its numbers into
them with plain Python. Right after a step, its weights have pushed everything else out of the
caches: an array operation then takes 30 to 100 microseconds and plain Python a few. Making new
arrays took longer than everything else between two steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from itertools import chain
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from rbee_worker.engine.scheduler import Chunk
from rbee_worker.engine.sequence import Sequence
from rbee_worker.ops.batch import FixedPlaces, Ints, PagedPlaces, StepNumbers

Kind = Literal["own", "source", "fixed"]  # what a state group keeps
Drawn = Mapping[Sequence, int]  # sequence -> row of its first draw in the previous step


def tokens_of(chunks: Seq[Chunk], drawn: Drawn | None) -> tuple[list[int], list[int]]:
    """Every row's token, and the draw of the previous step that it is: -1 if the token is known."""
    tokens: list[int] = []
    takes: list[int] = []
    for chunk in chunks:
        known = chunk.seq.tokens[chunk.start : chunk.end] + list(chunk.draft)
        unknown = chunk.count - len(known)
        tokens += known
        takes += [-1] * len(known)
        if unknown:
            assert drawn is not None, "a token is planned before it is known"
            first = drawn[chunk.seq] + chunk.end - unknown - len(chunk.seq.tokens)
            tokens += [0] * unknown
            takes += range(first, first + unknown)
    return tokens, takes


class Lines(Struct, frozen=True):
    """Which lines of numbers decoding steps have besides those of every step."""

    takes: bool
    adapters: bool


class Decoding:
    """The numbers of a step in which at most `rows` sequences decode; block tables of `columns`."""

    def __init__(
        self, kinds: Seq[Kind], block_size: int, rows: int, columns: int, more: Lines
    ) -> None:
        self.rows, self.columns = rows, columns
        self._kinds, self._size = kinds, block_size
        sources = kinds.count("source")
        # values of padding, by line: tokens, positions, kv_lens, rope_lens, slots of each group,
        # lens of each group of sources, then adapters and takes where there are any
        places = [0] * len(kinds) + [1] * sources
        self._sinks = [0, 0, 1, 1, *places, *[0] * more.adapters, *[-1] * more.takes]
        self._more = more
        numbers: Ints = np.repeat(np.array(self._sinks, np.int64)[:, None], rows, axis=1)
        self._numbers = memoryview(numbers).cast("B").cast("q")  # type: ignore[arg-type]
        self._tables = [_Table(rows, columns) for kind in kinds if kind != "fixed"]
        self._lens = [1] * rows
        slots, tables = iter(numbers[4:]), iter(self._tables)
        lens = iter(numbers[4 + len(kinds) :])
        starts = np.arange(rows + 1)
        self._step = StepNumbers(
            tokens=numbers[0],
            positions=numbers[1],
            seq_starts=starts,
            kv_lens=numbers[2],
            rope_lens=numbers[3],
            sample_rows=starts[:-1],
            places=tuple(
                FixedPlaces(next(slots))
                if kind == "fixed"
                else PagedPlaces(
                    next(tables).blocks, next(slots), next(lens) if kind == "source" else None
                )
                for kind in kinds
            ),
            seq_starts_host=tuple(range(rows + 1)),
            kv_lens_host=self._lens,
            takes=numbers[-1] if more.takes else None,
            adapters=numbers[-1 - more.takes] if more.adapters else None,
        )

    def fill(self, chunks: Seq[Chunk], drawn: Drawn | None) -> StepNumbers:
        """The numbers of these chunks, one token each."""
        positions = [chunk.start for chunk in chunks]
        lens = [position + 1 for position in positions]
        ropes = [chunk.seq.rope_len for chunk in chunks]
        if drawn is None:
            takes: list[int] = []
            tokens = [chunk.seq.tokens[chunk.start] for chunk in chunks]
        else:
            tokens, takes = tokens_of(chunks, drawn)
        padding = self.rows - len(chunks)
        sources = [chunk.state.source for chunk in chunks]
        lines = [tokens, positions, lens, ropes, *self._slots(chunks)]
        lines += [sources] * self._kinds.count("source")
        if self._more.adapters:
            lines.append([chunk.seq.adapter or 0 for chunk in chunks])
        if drawn is not None:
            lines.append(takes)
        if padding:
            lens = lens + [1] * padding
            lines = [[*a, *[b] * padding] for a, b in zip(lines, self._sinks, strict=True)]
        self._lens[:] = lens
        self._numbers[:] = array("q", chain.from_iterable(lines))
        return self._step

    def _slots(self, chunks: Seq[Chunk]) -> Iterator[list[int]]:
        """The places of each group's state; writes the tables of paged groups."""
        number = 0
        for kind in self._kinds:
            if kind == "fixed":
                yield [chunk.state.slot for chunk in chunks]
                continue
            write, size, slots = self._tables[number].write, self._size, []
            for row, chunk in enumerate(chunks):
                blocks = chunk.state.tables[number]
                write(row, blocks)
                if kind == "own":
                    slots.append(blocks[chunk.start // size] * size + chunk.start % size)
                else:  # a source is only read
                    slots.append(0)
            for row in range(len(chunks), self.rows):
                write(row, _NO_BLOCKS)
            assert kind != "own" or min(slots) >= size, "a key would go to the sink"
            yield slots
            number += 1


_NO_BLOCKS = array("i")


class _Table:
    """A block table int32 [rows, columns], and how much of each row is in use."""

    def __init__(self, rows: int, columns: int) -> None:
        self.blocks: NDArray[np.int32] = np.zeros((rows, columns), np.int32)
        self._columns, self._used = columns, [0] * rows
        self._numbers = memoryview(self.blocks).cast("B").cast("i")  # type: ignore[arg-type]

    def write(self, row: int, blocks: array[int]) -> None:
        """Write a sequence's blocks; the rest of its row is the sink."""
        first, n, before = row * self._columns, len(blocks), self._used[row]
        self._numbers[first : first + n] = blocks
        if before > n:
            self._numbers[first + n : first + before] = array("i", bytes(4 * (before - n)))
        self._used[row] = n
