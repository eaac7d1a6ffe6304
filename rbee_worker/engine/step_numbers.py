"""Plan -> `StepNumbers`: a step's tokens in sequence, and where each reads and writes its state.

These are numbers on the host: nothing is computed, cleared or copied here.

Most steps decode: every sequence computes one token and draws the next. The arrays of such a step
are made once per number of sequences; each step writes its numbers into them with plain Python.
Right after a step, its weights have pushed everything else out of the caches: an array operation
then takes 30 to 100 microseconds and plain Python a few. Making new arrays took longer than
everything else between two steps.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as Seq
from itertools import accumulate, chain, pairwise
from typing import Literal

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from rbee_worker.engine.pooling import needed
from rbee_worker.engine.sampler import NONE
from rbee_worker.engine.scheduler import Chunk
from rbee_worker.engine.sequence import Sequence
from rbee_worker.ops.batch import FixedPlaces, Ints, PagedPlaces, Places, StepNumbers
from rbee_worker.state.sequence import SeqState
from rbee_worker.state.specs import PagedKV, StateGroup, of_sources

Kind = Literal["own", "source", "fixed"]  # what a state group keeps
Span = tuple[SeqState, int, int]  # rows start .. end - 1 of a sequence
Drawn = Mapping[Sequence, int]  # sequence -> row of its first draw in the previous step


class ScoreRows(Struct, frozen=True):
    """Rows whose logits score the prompt: row i of this part scores token targets[i]."""

    chunk: Chunk
    targets: tuple[int, ...]


class PoolRows(Struct, frozen=True):
    """Rows first .. end - 1 of the step are those of a chunk that its sequence's vector is made of;
    the first one's position is `position`."""

    chunk: Chunk
    first: int
    end: int
    position: int


class Step(Struct, frozen=True):
    """A step's numbers, and what its `sample_rows` are for.

    The first rows draw: row i draws token indices[i] of the sequence of draws[i]. Then come those
    of `scores`. Any others are padding. expected: see `Sampler.prepare`; empty if nothing is
    drafted. pooled: of each chunk whose sequence wants a vector.
    """

    numbers: StepNumbers
    draws: list[Chunk]
    indices: list[int]
    scores: list[ScoreRows]
    expected: list[int] = []
    pooled: list[PoolRows] = []


class StepBuilder:
    """Builds every step's numbers. Those of a decoding step are valid until the next is built."""

    def __init__(
        self,
        groups: Seq[StateGroup],
        block_size: int,
        *,
        bucket: int = 0,
        adapts: bool = False,
    ) -> None:
        """bucket: 0, or the most sequences of a step: decoding steps are then padded with sinks
        to 1, 2, 4, 8 .. `bucket` sequences. adapts: sequences may use adapters."""
        self._kinds = _kinds(groups)
        self._block_size = block_size
        self._bucket, self._adapts = bucket, adapts
        self._decoding: dict[int, _Decoding] = {}  # by number of sequences

    def build(self, chunks: Seq[Chunk], drawn: Drawn | None = None) -> Step:
        """The numbers of a plan's chunks, in the plan's order.

        drawn: given if the draws of the previous step may not be known yet. A token that is not in
        its sequence's list is then taken from there (`StepNumbers.takes`).
        """
        longest = 0
        for chunk in chunks:
            if chunk.count != 1 or chunk.draws != 1:
                return self._mixed(chunks, drawn)
            longest = max(longest, chunk.start + 1, chunk.state.source)
        decoding = self._for(len(chunks), longest, drawn is not None)
        numbers = decoding.fill(chunks, drawn)
        return Step(numbers, list(chunks), [chunk.end for chunk in chunks], [])

    def _for(self, sequences: int, longest: int, takes: bool) -> _Decoding:
        rows, columns = sequences, -(-longest // self._block_size)
        if self._bucket:
            assert sequences <= self._bucket
            rows = min(1 << (sequences - 1).bit_length(), self._bucket)
        found = self._decoding.get(rows)
        if found is None or found.columns < columns:
            room = 1 << columns.bit_length()  # a power of two: room to grow
            lines = _Lines(takes, self._adapts)
            found = _Decoding(self._kinds, self._block_size, rows, room, lines)
            self._decoding[rows] = found
        return found

    def _mixed(self, chunks: Seq[Chunk], drawn: Drawn | None) -> Step:
        """A step whose sequences compute different numbers of tokens."""
        starts = (0, *accumulate(c.count for c in chunks))
        tokens, takes = _tokens(chunks, drawn)
        rows, draws, indices, scores = _sampled(chunks, starts)
        kv_lens = tuple(c.end for c in chunks)
        ids, positions, seq_starts, lens, rope_lens, sample_rows = _arrays(
            tokens,
            [p for c in chunks for p in range(c.start, c.end)],
            starts,
            kv_lens,
            [c.seq.rope_len for c in chunks],
            rows,
        )
        numbers = StepNumbers(
            tokens=ids,
            positions=positions,
            seq_starts=seq_starts,
            kv_lens=lens,
            rope_lens=rope_lens,
            sample_rows=sample_rows,
            places=tuple(self._places([(c.state, c.start, c.end) for c in chunks])),
            seq_starts_host=starts,
            kv_lens_host=kv_lens,
            takes=None if drawn is None else np.array(takes, np.int64),
            segments=_segments(chunks),
            adapters=_adapters([c.seq for c in chunks], [c.count for c in chunks]),
        )
        return Step(numbers, draws, indices, scores, _expected(chunks), _pooled(chunks, starts))

    def sources(self, seqs: Seq[Sequence]) -> StepNumbers:
        """The numbers of a step that reads whole sources: see `Executable.encode`."""
        sources = [seq.source or () for seq in seqs]
        counts = [len(source) for source in sources]
        tokens, positions, seq_starts, lens, rope_lens, sample_rows = _arrays(
            [token for source in sources for token in source],
            [p for count in counts for p in range(count)],
            starts := (0, *accumulate(counts)),
            counts,
            counts,
            [],
        )
        spans = [(seq.state, 0, count) for seq, count in zip(seqs, counts, strict=True)]
        return StepNumbers(
            tokens=tokens,
            positions=positions,
            seq_starts=seq_starts,
            kv_lens=lens,
            rope_lens=rope_lens,
            sample_rows=sample_rows,
            places=tuple(self._places(spans, writes="source")),
            seq_starts_host=starts,
            kv_lens_host=tuple(counts),
            adapters=_adapters(seqs, counts),
        )

    def _places(self, spans: Seq[Span], *, writes: Kind = "own") -> Iterator[Places]:
        """Each group's places of rows start .. end - 1 of some sequences. writes: the kind of
        groups that the rows are written to; in others they go to the sink."""
        size, number = self._block_size, 0
        for kind in self._kinds:
            if kind == "fixed":
                yield FixedPlaces(*_arrays([state.slot for state, _, _ in spans]))
                continue
            lens = [state.source if kind == "source" else end for state, _, end in spans]
            needed = [-(-n // size) for n in lens]
            table = np.zeros((len(spans), max(needed)), np.int32)
            slots: list[int] = []
            for row, (state, start, end), n in zip(table, spans, needed, strict=True):
                if kind == "own" and writes == "source":
                    slots += [0] * (end - start)  # nothing of the answer is there yet
                    continue
                blocks = state.tables[number]
                row[:n] = blocks[:n]
                if kind == writes:
                    slots += [blocks[p // size] * size + p % size for p in range(start, end)]
                else:
                    slots += [0] * (end - start)
            assert kind != writes or min(slots) >= size, "a key would go to the sink"
            own = _arrays(slots, lens)
            yield PagedPlaces(table, own[0], own[1] if kind == "source" else None)
            number += 1


def _kinds(groups: Seq[StateGroup]) -> list[Kind]:
    """What each group keeps: rows of the sequences themselves, of their sources, or slots."""
    sources = of_sources(groups)
    return [
        "source" if source else "own" if isinstance(group.spec, PagedKV) else "fixed"
        for group, source in zip(groups, sources, strict=True)
    ]


def _tokens(chunks: Seq[Chunk], drawn: Drawn | None) -> tuple[list[int], list[int]]:
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


def _sampled(
    chunks: Seq[Chunk], starts: Seq[int]
) -> tuple[list[int], list[Chunk], list[int], list[ScoreRows]]:
    """The rows that are sampled, drawing rows first, and what they are for, as in `Step`. starts:
    each chunk's first row, and the end of the last."""
    rows: list[int] = []
    draws: list[Chunk] = []
    indices: list[int] = []
    for chunk, end in zip(chunks, starts[1:], strict=True):
        rows += range(end - chunk.draws, end)
        draws += [chunk] * chunk.draws
        indices += range(chunk.end - chunk.draws + 1, chunk.end + 1)
    scores = []
    for chunk, start in zip(chunks, starts[:-1], strict=True):
        first, last = _scored(chunk)
        if last > first:
            scores.append(ScoreRows(chunk, tuple(chunk.seq.tokens[first + 1 : last + 1])))
            rows += range(start + first - chunk.start, start + last - chunk.start)
    return rows, draws, indices, scores


def _segments(chunks: Seq[Chunk]) -> Ints | None:
    """Each row's text of its sequence's two; None if no sequence has two."""
    if not any(chunk.seq.submit.second for chunk in chunks):
        return None
    parts = [
        np.arange(c.start, c.end) >= (c.seq.submit.second or len(c.seq.tokens)) for c in chunks
    ]
    return np.concatenate(parts).astype(np.int64)


def _adapters(seqs: Seq[Sequence], counts: Seq[int]) -> Ints | None:
    """The slot of each row's adapter, for so many rows of each sequence; None if none has one."""
    slots = [seq.adapter or 0 for seq in seqs]
    return np.repeat(np.array(slots, np.int64), counts) if any(slots) else None


def _pooled(chunks: Seq[Chunk], starts: Seq[int]) -> list[PoolRows]:
    """The rows that vectors are made of. starts: as for `_sampled`."""
    found = []
    for chunk, start in zip(chunks, starts[:-1], strict=True):
        pool = chunk.seq.submit.pool
        if pool is not None:
            first, end = needed(pool, chunk.start, chunk.end, len(chunk.seq.tokens))
            offset = start - chunk.start
            found.append(PoolRows(chunk, offset + first, offset + end, first))
    return found


def _expected(chunks: Seq[Chunk]) -> list[int]:
    """The drafted token after each row that draws: see `Sampler.prepare`."""
    if not any(chunk.draft for chunk in chunks):
        return []
    return [token for c in chunks if c.draws for token in (*c.draft, NONE)]


def _scored(chunk: Chunk) -> tuple[int, int]:
    """Positions first .. last-1 of a chunk whose logits score a prompt token without a score."""
    scores = chunk.seq.scores
    if scores is None:
        return 0, 0
    first = max(chunk.start, len(scores) - 1)
    return first, min(chunk.end, chunk.seq.prompt_len - 1)


def _arrays(*parts: Seq[int]) -> list[Ints]:
    """These numbers as parts of one int64 array, because a step has many small ones."""
    ends = (0, *accumulate(len(part) for part in parts))
    whole = np.fromiter(chain.from_iterable(parts), np.int64, ends[-1])
    return [whole[start:end] for start, end in pairwise(ends)]


class _Lines(Struct, frozen=True):
    """Which lines of numbers decoding steps have besides those of every step."""

    takes: bool
    adapters: bool


class _Decoding:
    """The numbers of a step in which at most `rows` sequences decode; block tables of `columns`."""

    def __init__(
        self, kinds: Seq[Kind], block_size: int, rows: int, columns: int, more: _Lines
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
            tokens, takes = _tokens(chunks, drawn)
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
