"""What a step has found, for the sequences of its chunks."""

from __future__ import annotations

from msgspec import Struct

from rbee_worker.engine.scheduler import Chunk
from rbee_worker.engine.sequence import Sequence
from rbee_worker.ops.batch import Array
from rbee_worker.types import TokenLogprob


class Draw(Struct, frozen=True):
    """The token drawn for one row of a chunk; error: why there is none."""

    chunk: Chunk
    id: int
    logprob: TokenLogprob | None
    error: str | None = None


class Scores(Struct, frozen=True):
    """Log-probabilities of the next prompt tokens of a chunk's sequence."""

    chunk: Chunk
    logprobs: tuple[TokenLogprob, ...]


class Vector(Struct, frozen=True):
    """The vector of a chunk's sequence, which this chunk completes; error: why it is none."""

    chunk: Chunk
    data: bytes
    error: str | None = None


class Results(Struct):
    """What a step has found: draws by chunk in the plan's order, within a chunk by position."""

    draws: list[Draw] = []
    scores: list[Scores] = []
    vectors: list[Vector] = []
    hidden: Array = None  # float32 [rows, dim], of all the step's rows, where they are kept


def take_draws(seq: Sequence, draws: list[Draw]) -> list[Draw]:
    """Append a sequence's next output tokens, up to one that ends it or is none. Returns their
    draws."""
    for n, draw in enumerate(draws, 1):
        if draw.error is not None:
            return draws[:n]
        seq.tokens.append(draw.id)
        if seq.ended() is not None:
            return draws[:n]
    return draws
