"""Plan -> `Batch`: the step's tokens laid end to end, and where each finds and puts its state."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate, chain

import numpy as np
import torch
from msgspec import Struct
from torch import Tensor

from rbee_worker.engine.scheduler import Chunk
from rbee_worker.ops.batch import Batch, FixedState, PagedState
from rbee_worker.state.tensors import StateTensors


@dataclass(frozen=True)
class ScoreRows:
    """Rows whose logits score the prompt: row i of this part scores token targets[i]."""

    chunk: Chunk
    targets: tuple[int, ...]


class StepBatch(Struct, frozen=True):
    """A batch and who is behind its `sample_rows`: first one row a draw, then rows that score."""

    batch: Batch
    draws: tuple[Chunk, ...]
    scores: tuple[ScoreRows, ...]


def build_batch(chunks: Seq[Chunk], tensors: StateTensors, device: str = "cpu") -> StepBatch:
    """The batch of a plan's chunks, in the plan's order."""
    starts = (0, *accumulate(c.count for c in chunks))
    tokens = [t for c in chunks for t in c.seq.tokens[c.start : c.start + c.count]]
    assert len(tokens) == starts[-1], "a token is planned before it is known"
    kv_lens = tuple(c.start + c.count for c in chunks)
    draws = tuple(c for c in chunks if c.draws)
    rows = [starts[i + 1] - 1 for i, c in enumerate(chunks) if c.draws]
    scores = []
    for i, chunk in enumerate(chunks):
        first, last = _scored(chunk)
        if last > first:
            targets = tuple(chunk.seq.tokens[first + 1 : last + 1])
            scores.append(ScoreRows(chunk, targets))
            rows += range(starts[i] + first - chunk.start, starts[i] + last - chunk.start)
    ids = (
        tokens,
        [p for c in chunks for p in range(c.start, c.start + c.count)],
        starts,
        kv_lens,
        [c.seq.rope_len for c in chunks],
        rows,
    )
    token_ids, positions, seq_starts, lens, rope_lens, sample_rows = _ints(ids, device)
    batch = Batch(
        tokens=token_ids,
        positions=positions,
        seq_starts=seq_starts,
        kv_lens=lens,
        rope_lens=rope_lens,
        sample_rows=sample_rows,
        state=tuple(_states(chunks, tensors, device)),
        seq_starts_host=starts,
        kv_lens_host=kv_lens,
    )
    return StepBatch(batch, draws, tuple(scores))


def _ints(parts: Seq[Seq[int]], device: str) -> tuple[Tensor, ...]:
    """int64 tensors of these numbers, parts of one: a step has many and they are small."""
    sizes = [len(part) for part in parts]
    whole = np.fromiter(chain.from_iterable(parts), np.int64, sum(sizes))
    return torch.split(torch.from_numpy(whole).to(device), sizes)


def _scored(chunk: Chunk) -> tuple[int, int]:
    """Positions first .. last-1 of a chunk whose logits score a prompt token not scored yet."""
    scores = chunk.seq.scores
    if scores is None:
        return 0, 0
    first = max(chunk.start, len(scores) - 1)
    return first, min(chunk.start + chunk.count, chunk.seq.prompt_len - 1)


def _states(
    chunks: Seq[Chunk], tensors: StateTensors, device: str
) -> Iterator[PagedState | FixedState]:
    size = tensors.block_size
    paged = 0
    for pair, fixed in zip(tensors.paged, tensors.fixed, strict=True):
        if pair is not None:
            tables = [c.state.tables[paged] for c in chunks]
            needed = [-(-(c.start + c.count) // size) for c in chunks]
            table = np.zeros((len(chunks), max(needed)), dtype=np.int32)
            for b, blocks in enumerate(tables):
                table[b, : needed[b]] = blocks[: needed[b]]
            slots = [
                blocks[p // size] * size + p % size
                for c, blocks in zip(chunks, tables, strict=True)
                for p in range(c.start, c.start + c.count)
            ]
            assert min(slots) >= size, "a key would go to the sink"
            (at,) = _ints((slots,), device)
            yield PagedState(*pair, torch.from_numpy(table).to(device), at)
            paged += 1
        else:
            assert fixed is not None
            for chunk in chunks:
                if chunk.start == 0:
                    tensors.clear_slot(chunk.state.slot)
            (at,) = _ints(([c.state.slot for c in chunks],), device)
            yield FixedState(fixed, at)
