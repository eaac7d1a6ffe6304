"""What the rows of a step are for: which draw a token, score the prompt, or make a vector."""

from __future__ import annotations

from collections.abc import Sequence as Seq

from msgspec import Struct

from rbee_worker.engine.pooling import needed
from rbee_worker.engine.sampler import NONE
from rbee_worker.engine.scheduler import Chunk


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


def sampled(
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


def pooled(chunks: Seq[Chunk], starts: Seq[int]) -> list[PoolRows]:
    """The rows that vectors are made of. starts: as for `sampled`."""
    found = []
    for chunk, start in zip(chunks, starts[:-1], strict=True):
        pool = chunk.seq.submit.pool
        if pool is not None:
            first, end = needed(pool, chunk.start, chunk.end, len(chunk.seq.tokens))
            offset = start - chunk.start
            found.append(PoolRows(chunk, offset + first, offset + end, first))
    return found


def expected(chunks: Seq[Chunk]) -> list[int]:
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
