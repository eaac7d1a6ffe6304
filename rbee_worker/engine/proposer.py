"""`Proposer`: what makes drafts by computing them, and decides by their cost how long they are.

It serves sequences that have `Guesses`. A drafted token is drawn as the model's own would be, with
the sequence's parameters and the same uniform number (`Sampler`), from logits that are not the
model's: the more these two agree, the more often the two draws are the same token. With the most
likely token instead, a sampled request would accept no more than its probability
(docs/performance.md has figures).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from collections.abc import Sequence as Seq

from rbee_worker.engine.draft_costs import Costs
from rbee_worker.engine.guesses import Guesses
from rbee_worker.engine.sampler import Sampler
from rbee_worker.engine.scheduler import Chunk, Plan
from rbee_worker.engine.sequence import Sequence
from rbee_worker.ops.batch import Array
from rbee_worker.ops.sampling import Bits

Clock = Callable[[], float]
CLOCK: Clock = time.perf_counter


class Proposer(ABC):
    """Drafts for sequences that have `Guesses`. Its engine's loop is its only user."""

    def __init__(self, context: int, clock: Clock, *, redoes: bool = False) -> None:
        """context: the longest sequence that it can draft for. redoes: see `Ratios`."""
        self._context, self._clock = context, clock
        self._spent = 0.0  # seconds of the step that is being planned
        self._sampler: Sampler | None = None
        self.costs = Costs(redoes=redoes)

    def draws_with(self, sampler: Sampler) -> None:
        """The sampler of the model that is drafted for; it has the sequences' parameters."""
        self._sampler = sampler

    def propose(self, seqs: Seq[Sequence], room: int) -> None:
        """Offer drafts to sequences that are computed but for their last token: at most `room`
        tokens in all."""
        began = self._clock()
        wanted = self._wanted(seqs, room)
        if wanted:
            for seq, draft in self._drafted(wanted).items():
                assert isinstance(seq.drafter, Guesses)
                seq.drafter.offer(draft)
        self._spent = self._clock() - began

    def stepped(self, plan: Plan, seconds: float) -> None:
        """A step is over that took so long, drafting included."""
        spent, self._spent = self._spent, 0.0
        if plan.chunks and all(chunk.count == chunk.draws for chunk in plan.chunks):
            drafted = sum(len(chunk.draft) for chunk in plan.chunks)
            self.costs.stepped(len(plan.chunks), drafted, seconds - spent)

    def follow(self, chunks: Seq[Chunk], hidden: Array) -> None:  # noqa: B027
        """Chunks of a step whose tokens are known by now, and the hidden states of all its rows,
        where these are kept (`Runner`)."""

    @abstractmethod
    def leave(self, seq: Sequence) -> None:
        """A sequence has ended or was preempted."""

    @abstractmethod
    def _drafted(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """Draft so many tokens for each sequence, or fewer."""

    def _wanted(self, seqs: Seq[Sequence], room: int) -> dict[Sequence, int]:
        """How many tokens to draft for each sequence, in equal shares of `room`."""
        ratios = self.costs.ratios(len(seqs))
        if ratios is None:
            return {}
        wanted: dict[Sequence, int] = {}
        for seq in seqs:
            drafter, length = seq.drafter, len(seq.tokens)
            if not isinstance(drafter, Guesses) or seq.slot < 0 or seq.one_row:
                continue
            drafter.follow(length)
            end = min(seq.limit - 1, seq.rope_end, self._context)
            if end > length:
                wanted[seq] = min(drafter.wanted(ratios), end - length)
        wanted = {seq: n for seq, n in wanted.items() if n}
        share = room // max(len(wanted), 1)
        return {seq: min(n, share) for seq, n in wanted.items() if share}

    def _guess(
        self, logits: Array, seqs: Seq[Sequence], drafts: Mapping[Sequence, Seq[int]]
    ) -> list[int]:
        """The next drafted token of each sequence, from a row of logits each; negative: there is
        none."""
        assert self._sampler is not None
        masks: dict[int, Bits] = {}
        for row, seq in enumerate(seqs):
            allowed = seq.masks(tuple(drafts[seq]))
            if allowed is not None:
                masks[row] = allowed[-1]
        slots = [seq.slot for seq in seqs]
        indices = [len(seq.tokens) + len(drafts[seq]) for seq in seqs]
        return self._sampler.guess(logits, self._sampler.prepare(slots, indices, (), masks))
