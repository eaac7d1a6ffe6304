"""Plan -> `Batch`: the step's tokens laid end to end, and where each finds and puts its state."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rbee_worker.engine.scheduler import Chunk
from rbee_worker.ops.batch import Batch, FixedState, PagedState
from rbee_worker.state.tensors import StateTensors


@dataclass(frozen=True)
class ScoreRows:
    """Rows whose logits score the prompt: row i of this part scores token targets[i]."""

    chunk: Chunk
    targets: tuple[int, ...]


@dataclass(frozen=True)
class StepBatch:
    """A batch and who is behind its `sample_rows`: first one row a draw, then rows that score."""

    batch: Batch
    draws: tuple[Chunk, ...]
    scores: tuple[ScoreRows, ...]


def build_batch(chunks: Seq[Chunk], tensors: StateTensors, device: str = "cpu") -> StepBatch:
    """The batch of a plan's chunks, in the plan's order."""
    counts = [c.count for c in chunks]
    starts = (0, *accumulate(counts))
    tokens = [t for c in chunks for t in c.seq.tokens[c.start : c.start + c.count]]
    assert len(tokens) == starts[-1], "a token is planned before it is known"
    positions = np.array([p for c in chunks for p in range(c.start, c.start + c.count)])
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

    def ints(values: Seq[int] | npt.NDArray[np.int64]) -> Tensor:
        return torch.from_numpy(np.asarray(values, dtype=np.int64)).to(device)

    batch = Batch(
        tokens=ints(tokens),
        positions=ints(positions),
        seq_starts=ints(starts),
        kv_lens=ints(kv_lens),
        rope_lens=ints([c.seq.rope_len for c in chunks]),
        sample_rows=ints(rows),
        state=tuple(_states(chunks, positions, tensors, device)),
        seq_starts_host=starts,
        kv_lens_host=kv_lens,
    )
    return StepBatch(batch, draws, tuple(scores))


def _scored(chunk: Chunk) -> tuple[int, int]:
    """Positions first .. last-1 of a chunk whose logits score a prompt token not scored yet."""
    scores = chunk.seq.scores
    if scores is None:
        return 0, 0
    first = max(chunk.start, len(scores) - 1)
    return first, min(chunk.start + chunk.count, chunk.seq.prompt_len - 1)


def _states(
    chunks: Seq[Chunk], positions: npt.NDArray[np.int64], tensors: StateTensors, device: str
) -> list[PagedState | FixedState]:
    out: list[PagedState | FixedState] = []
    size = tensors.block_size
    owner = np.repeat(np.arange(len(chunks)), [c.count for c in chunks])
    paged = 0
    for pair, fixed in zip(tensors.paged, tensors.fixed, strict=True):
        if pair is not None:
            needed = [-(-(c.start + c.count) // size) for c in chunks]
            table = np.zeros((len(chunks), max(needed)), dtype=np.int32)
            for b, chunk in enumerate(chunks):
                table[b, : needed[b]] = chunk.state.tables[paged][: needed[b]]
            blocks = table[owner, positions // size].astype(np.int64)
            assert (blocks > 0).all(), "a key would go to the sink"
            slots = torch.from_numpy(blocks * size + positions % size)
            k, v = pair
            out.append(PagedState(k, v, torch.from_numpy(table).to(device), slots.to(device)))
            paged += 1
        else:
            assert fixed is not None
            for chunk in chunks:
                if chunk.start == 0:
                    tensors.clear_slot(chunk.state.slot)
            slots = torch.tensor([c.state.slot for c in chunks], device=device)
            out.append(FixedState(fixed, slots))
    return out
