"""A second, smaller model in the same engine that drafts what the first one may draw.

It has a state of its own, in which each sequence has a *shadow*: the sequence's tokens and, at its
end, the tokens that are drafted. Before it drafts, a shadow catches up: it drops the drafted tokens
that were not drawn, and computes what its sequence has got meanwhile (all of it in the beginning,
or the rest of a known prefix), at most a step's tokens at once.

A drafted token is drawn as the model's own would be, with the sequence's parameters and the same
uniform number (`Sampler`), from this model's logits: the more the two models agree, the more often
the two draws are the same token. With the most likely token instead, a sampled request would accept
no more than its probability (docs/performance.md has figures).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass

from rbee_worker.engine.draft_costs import Costs
from rbee_worker.engine.guesses import Guesses
from rbee_worker.engine.rope_length import RopeLengths
from rbee_worker.engine.sampler import Sampler
from rbee_worker.engine.scheduler import Chunk, Plan
from rbee_worker.engine.sequence import Sequence
from rbee_worker.engine.step_numbers import StepBuilder
from rbee_worker.ops import RopeSpec
from rbee_worker.ops.backend import Executable, StateMemory
from rbee_worker.ops.batch import Array
from rbee_worker.ops.sampling import Bits
from rbee_worker.state.pool import StatePool

Columns = Callable[[Array], Array]
CATCHING_UP = 4  # rows of a sequence: a step with more of them says nothing about drafting


def _as_they_are(logits: Array) -> Array:
    return logits


@dataclass(eq=False, slots=True)
class Shadow:
    """A sequence in the draft model. seq: its tokens and state there. known: how many of its tokens
    are the sequence's own; the others are drafted."""

    seq: Sequence
    known: int


class DraftModel:
    """Drafts for sequences that have `Guesses`. Its engine's loop is its only user."""

    def __init__(
        self,
        model: Executable,
        memory: StateMemory,
        pool: StatePool,
        *,
        ropes: Iterable[RopeSpec] = (),
        columns: Columns = _as_they_are,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """memory, pool: the state of `model` alone. ropes: its rotary tables. columns: gives its
        logits the columns of the other model's."""
        self._columns = columns
        self._model, self._memory, self._pool = model, memory, pool
        self._steps = StepBuilder(model.groups, pool.block_size)
        self._ropes = RopeLengths(ropes)
        self._clock = clock
        self._shadows: dict[Sequence, Shadow] = {}
        self._spent = 0.0  # seconds of the step that is being planned
        self._sampler: Sampler | None = None
        self.costs = Costs()

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

    def leave(self, seq: Sequence) -> None:
        """A sequence has ended or was preempted; what is computed of it may be found again."""
        shadow = self._shadows.pop(seq, None)
        if shadow is not None:
            self._correct(shadow, seq.tokens)
            self._pool.release(shadow.seq.state)

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
            end = min(seq.limit - 1, seq.rope_end, self._model.context)
            if end > length:
                wanted[seq] = min(drafter.wanted(ratios), end - length)
        wanted = {seq: n for seq, n in wanted.items() if n}
        share = room // max(len(wanted), 1)
        return {seq: min(n, share) for seq, n in wanted.items() if share}

    def _drafted(self, wanted: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """Draft so many tokens for each sequence, or fewer: none for one that has to catch up
        further, fewer where its constraint, its end or the memory allows no more."""
        drafts: dict[Sequence, list[int]] = {seq: [] for seq in wanted}
        chunks = self._caught_up(wanted)
        while chunks:
            began = self._clock()
            drawn = dict(zip(chunks, self._draw(chunks, drafts), strict=True))
            if max(chunk.count for chunk in chunks.values()) <= CATCHING_UP:
                self.costs.drew(len(chunks), self._clock() - began)
            chunks = {}
            for seq, token in drawn.items():
                if token < 0:
                    continue
                drafts[seq].append(token)
                more = len(drafts[seq]) < wanted[seq] and not seq.rules.ends(token)
                if more and (chunk := self._next(self._shadows[seq].seq, token)) is not None:
                    chunks[seq] = chunk
        return drafts

    def _next(self, shadow: Sequence, token: int) -> Chunk | None:
        """The row of a token that was just drafted; None if it cannot be computed."""
        if len(shadow.tokens) >= shadow.rope_end or not self._pool.widen(shadow.state, 1):
            return None
        shadow.tokens.append(token)
        return Chunk(shadow, shadow.state, len(shadow.tokens) - 1, 1, 1)

    def _draw(
        self, chunks: Mapping[Sequence, Chunk], drafts: Mapping[Sequence, list[int]]
    ) -> list[int]:
        """The token after each chunk's last row; negative: there is none."""
        assert self._sampler is not None
        logits = self._run(list(chunks.values()))
        masks: dict[int, Bits] = {}
        for row, seq in enumerate(chunks):
            allowed = seq.masks(tuple(drafts[seq]))
            if allowed is not None:
                masks[row] = allowed[-1]
        slots = [seq.slot for seq in chunks]
        indices = [chunk.end for chunk in chunks.values()]
        return self._sampler.guess(logits, self._sampler.prepare(slots, indices, (), masks))

    def _caught_up(self, wanted: Iterable[Sequence]) -> dict[Sequence, Chunk]:
        """Let the shadows catch up. Returns the chunk of each one that draws the first drafted
        token; it is not computed yet."""
        left = self._pool.step_tokens
        last: dict[Sequence, Chunk] = {}
        others: list[Chunk] = []
        for seq in wanted:
            shadow = self._shadow(seq)
            state = shadow.seq.state
            missing = len(seq.tokens) - state.planned
            granted = self._pool.reserve(state, min(missing, left)) if left else 0
            if not granted:
                continue
            left -= granted
            chunk = Chunk(shadow.seq, state, state.planned - granted, granted, 1)
            if granted == missing:
                last[seq] = chunk
            else:
                others.append(chunk)
        if others:
            self._run(others)
            for chunk in others:
                self._pool.commit(chunk.state, chunk.count)
        return last

    def _run(self, chunks: list[Chunk]) -> Array:
        """The logits after each chunk's last row."""
        numbers = self._steps.build(chunks).numbers
        return self._columns(self._model.logits(self._memory.stage(numbers)))

    def _shadow(self, seq: Sequence) -> Shadow:
        """A sequence's shadow, whose tokens are those of the sequence."""
        shadow = self._shadows.get(seq)
        if shadow is not None and len(seq.tokens) > shadow.seq.rope_end:
            self.leave(seq)  # its keys have to be computed again
            shadow = None
        if shadow is None:
            tokens = list(seq.tokens)
            rope_len = self._ropes.of(seq.prompt_len, len(tokens))
            own = Sequence(
                submit=seq.submit,
                tokens=tokens,
                limit=seq.limit,
                rules=seq.rules,
                state=self._pool.new(tokens, self._ropes.salt(rope_len)),
                arrival=seq.arrival,
                arrived_s=seq.arrived_s,
                rope_len=rope_len,
                rope_end=self._ropes.end(len(tokens)),
            )
            self._pool.attach(own.state)
            shadow = self._shadows[seq] = Shadow(own, len(tokens))
        self._correct(shadow, seq.tokens)
        return shadow

    def _correct(self, shadow: Shadow, tokens: list[int]) -> None:
        """Give a shadow its sequence's tokens in the place of drafted ones, and take back the
        positions of those that were not drawn."""
        own, state = shadow.seq.tokens, shadow.seq.state
        same = shadow.known
        while same < min(len(own), len(tokens)) and own[same] == tokens[same]:
            same += 1
        del own[same:]
        own += tokens[same:]
        shadow.known = len(own)
        if state.in_flight:
            computed = state.planned - state.computed
            self._pool.commit(state, computed, max(state.planned - same, 0))
