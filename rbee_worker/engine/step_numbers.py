"""Plan -> `StepNumbers`: a step's tokens in sequence, and where each reads and writes its state.

These are numbers on the host: nothing is computed, cleared or copied here.

Most steps decode: `decoding_numbers.py` has those.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from itertools import accumulate, chain, pairwise

import numpy as np
from msgspec import Struct

from rbee_worker.engine.decoding_numbers import Decoding, Drawn, Kind, Lines, tokens_of
from rbee_worker.engine.scheduler import Chunk
from rbee_worker.engine.sequence import Sequence
from rbee_worker.engine.step_rows import PoolRows, ScoreRows, expected, pooled, sampled
from rbee_worker.ops.batch import FixedPlaces, Ints, PagedPlaces, Places, StepNumbers
from rbee_worker.state.sequence import SeqState
from rbee_worker.state.specs import PagedKV, StateGroup, of_sources

Span = tuple[SeqState, int, int]  # rows start .. end - 1 of a sequence


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
        whole: bool = False,
    ) -> None:
        """bucket: 0, or the most sequences of a step: decoding steps are then padded with sinks
        as `padded` says, to `bucket` sequences at most. adapts: sequences may use adapters.
        whole: rows of a picture see each other (`TileSpec`)."""
        self._kinds = _kinds(groups)
        self._block_size = block_size
        self._bucket, self._adapts, self._whole = bucket, adapts, whole
        self._decoding: dict[int, Decoding] = {}  # by number of sequences

    def build(self, chunks: Seq[Chunk], drawn: Drawn | None = None) -> Step:
        """The numbers of a plan's chunks, in the plan's order.

        drawn: given if the draws of the previous step may not be known yet. A token that is not in
        its sequence's list is then taken from there (`StepNumbers.takes`).
        """
        longest = 0
        for chunk in chunks:
            if chunk.count != 1 or chunk.draws != 1 or chunk.shown:
                return self._mixed(chunks, drawn)
            longest = max(longest, chunk.start + 1, chunk.state.source)
        decoding = self._for(len(chunks), longest, drawn is not None)
        numbers = decoding.fill(chunks, drawn)
        return Step(numbers, list(chunks), [chunk.end for chunk in chunks], [])

    def _for(self, sequences: int, longest: int, takes: bool) -> Decoding:
        rows, columns = sequences, -(-longest // self._block_size)
        if self._bucket:
            assert sequences <= self._bucket
            rows = min(padded(sequences), self._bucket)
        found = self._decoding.get(rows)
        if found is None or found.columns < columns:
            room = 1 << columns.bit_length()  # a power of two: room to grow
            lines = Lines(takes, self._adapts)
            found = Decoding(self._kinds, self._block_size, rows, room, lines)
            self._decoding[rows] = found
        return found

    def _mixed(self, chunks: Seq[Chunk], drawn: Drawn | None) -> Step:
        """A step whose sequences compute different numbers of tokens."""
        starts = (0, *accumulate(c.count for c in chunks))
        tokens, takes = tokens_of(chunks, drawn)
        rows, draws, indices, scores = sampled(chunks, starts)
        known = None if drawn is None else np.array(takes, np.int64)
        numbers = self._numbers(chunks, starts, tokens, rows, known)
        return Step(numbers, draws, indices, scores, expected(chunks), pooled(chunks, starts))

    def rows(self, chunks: Seq[Chunk], tokens: Seq[int]) -> StepNumbers:
        """The numbers of a step that computes these chunks with other tokens in the place of their
        sequences' own. Nothing of it is sampled."""
        return self._numbers(chunks, (0, *accumulate(c.count for c in chunks)), tokens, [])

    def _numbers(
        self,
        chunks: Seq[Chunk],
        starts: Seq[int],
        tokens: Seq[int],
        rows: Seq[int],
        takes: Ints | None = None,
    ) -> StepNumbers:
        """starts: each chunk's first row, and the end of the last; rows: those that are sampled."""
        kv_lens = tuple(c.end for c in chunks)
        ids, positions, seq_starts, lens, rope_lens, sample_rows = _arrays(
            tokens,
            [p for c in chunks for p in range(c.start, c.end)],
            starts,
            kv_lens,
            [c.seq.rope_len for c in chunks],
            rows,
        )
        return StepNumbers(
            tokens=ids,
            positions=positions,
            seq_starts=seq_starts,
            kv_lens=lens,
            rope_lens=rope_lens,
            sample_rows=sample_rows,
            places=tuple(self._places([(c.state, c.start, c.end) for c in chunks])),
            seq_starts_host=starts,
            kv_lens_host=kv_lens,
            takes=takes,
            segments=_segments(chunks),
            adapters=_adapters([c.seq for c in chunks], [c.count for c in chunks]),
            features=_features(chunks, starts),
            until=_until(chunks, starts, positions) if self._whole else None,
        )

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


def padded(sequences: int) -> int:
    """How many sequences a decoding step is padded to. Few cost what one costs: powers of two. Each
    of many has its operations to do, and products are fastest with multiples of 8 rows."""
    if sequences <= 64:
        return 1 << (sequences - 1).bit_length()
    step = 8 if sequences <= 256 else 32
    return -(-sequences // step) * step


def _kinds(groups: Seq[StateGroup]) -> list[Kind]:
    """What each group keeps: rows of the sequences themselves, of their sources, or slots."""
    sources = of_sources(groups)
    return [
        "source" if source else "own" if isinstance(group.spec, PagedKV) else "fixed"
        for group, source in zip(groups, sources, strict=True)
    ]


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


def _features(chunks: Seq[Chunk], starts: Seq[int]) -> Ints | None:
    """The row of features that each row takes, -1 for none; None if no row takes one. starts: as
    for `step_rows.sampled`."""
    if not any(chunk.shown for chunk in chunks):
        return None
    rows = np.full(starts[-1], -1, np.int64)
    for chunk, start in zip(chunks, starts[:-1], strict=True):
        for part in chunk.shown:
            at, n = start + part.first - chunk.start, part.end - part.first
            rows[at : at + n] = np.arange(part.row, part.row + n)
    return rows


def _until(chunks: Seq[Chunk], starts: Seq[int], positions: Ints) -> Ints | None:
    """The last position that each row sees; None if that is its own everywhere."""
    if not any(chunk.shown for chunk in chunks):
        return None
    until = positions.copy()
    for chunk, start in zip(chunks, starts[:-1], strict=True):
        for part in chunk.shown:
            at = start - chunk.start
            until[at + part.first : at + part.end] = part.until
    return until


def _arrays(*parts: Seq[int]) -> list[Ints]:
    """These numbers as parts of one int64 array, because a step has many small ones."""
    ends = (0, *accumulate(len(part) for part in parts))
    whole = np.fromiter(chain.from_iterable(parts), np.int64, ends[-1])
    return [whole[start:end] for start, end in pairwise(ends)]
