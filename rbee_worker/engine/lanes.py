"""Sequences in two lanes: with their speaker's voice, and without.

A model that speaks follows a voice closely by *classifier-free guidance* (Ho and Salimans 2022): a
token is drawn from the logits scale * a + (1 - scale) * b, where a are those of the sequence with
its voice and b those without. Both lanes have the same tokens, and always the same number of them
computed. So the scheduler, the pool and the sampler see one sequence; only a step's numbers have
every row twice: all rows of the first lane, then all of the second, whose keys are in blocks of
their own. A row's result does not depend on the other rows, so tokens are the same in any batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from msgspec.structs import replace as replaced

from rbee_worker.engine.scheduler import Chunk
from rbee_worker.engine.step_numbers import Step
from rbee_worker.ops.batch import Ints, PagedPlaces, Places, StepNumbers

NO_VOICE = -1  # in `StepNumbers.features`


class Lanes:
    """blocks: of each state group, how many a lane has. A sequence's voice is the row of the memory
    of features that its slot in the sampler numbers."""

    def __init__(self, blocks: Sequence[int], block_size: int) -> None:
        self._blocks, self._block_size = blocks, block_size

    def doubled(self, step: Step, chunks: Sequence[Chunk]) -> Step:
        """The step of one lane -> that of both. The first half of its sampled rows, and of all
        rows, belongs to the first lane."""
        assert not step.scores
        assert not step.pooled
        return replaced(step, numbers=self._doubled(step.numbers, chunks))

    def _doubled(self, one: StepNumbers, chunks: Sequence[Chunk]) -> StepNumbers:
        rows = len(one.tokens)
        assert one.takes is None, "steps of two lanes do not overlap"
        assert one.segments is None
        assert one.until is None
        starts = (*one.seq_starts_host, *(rows + s for s in one.seq_starts_host[1:]))
        voices = [c.seq.slot if c.seq.submit.voice else NO_VOICE for c in chunks]
        first = np.repeat(np.array(voices, np.int64), [c.count for c in chunks])
        return StepNumbers(
            tokens=_twice(one.tokens),
            positions=_twice(one.positions),
            seq_starts=np.array(starts, np.int64),
            kv_lens=_twice(one.kv_lens),
            rope_lens=_twice(one.rope_lens),
            sample_rows=np.concatenate((one.sample_rows, one.sample_rows + rows)),
            places=tuple(self._places(p, n) for p, n in zip(one.places, self._blocks, strict=True)),
            seq_starts_host=starts,
            kv_lens_host=(*one.kv_lens_host, *one.kv_lens_host),
            adapters=None if one.adapters is None else _twice(one.adapters),
            features=np.concatenate((first, np.full(rows, NO_VOICE))),
        )

    def _places(self, one: Places, blocks: int) -> Places:
        """The second lane's blocks lie after all of the first one's, sink by sink."""
        assert isinstance(one, PagedPlaces)
        assert one.lens is None
        return PagedPlaces(
            np.concatenate((one.table, one.table + np.int32(blocks))),
            np.concatenate((one.slots, one.slots + blocks * self._block_size)),
        )


def _twice(numbers: Ints) -> Ints:
    return np.concatenate((numbers, numbers))
