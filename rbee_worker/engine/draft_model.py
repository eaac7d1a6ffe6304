"""A second, smaller model in the same engine that drafts what the first one may draw.

It has a state of its own, in which each sequence has a *shadow*: the sequence's tokens and, at its
end, the tokens that are drafted. Before it drafts, a shadow catches up: it drops the drafted tokens
that were not drawn, and computes what its sequence has got meanwhile (all of it in the beginning,
or the rest of a known prefix), at most a step's tokens at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from rbee_worker.engine.proposer import CLOCK, Clock, Proposer
from rbee_worker.engine.rope_length import RopeLengths
from rbee_worker.engine.scheduler import Chunk
from rbee_worker.engine.sequence import Sequence
from rbee_worker.engine.step_numbers import StepBuilder
from rbee_worker.ops import RopeSpec
from rbee_worker.ops.batch import Array
from rbee_worker.ops.executable import Executable, StateMemory
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


class DraftModel(Proposer):
    """See `Proposer`."""

    def __init__(
        self,
        model: Executable,
        memory: StateMemory,
        pool: StatePool,
        *,
        ropes: Iterable[RopeSpec] = (),
        columns: Columns = _as_they_are,
        clock: Clock = CLOCK,
    ) -> None:
        """memory, pool: the state of `model` alone. ropes: its rotary tables. columns: gives its
        logits the columns of the other model's."""
        super().__init__(model.context, clock)
        self._columns = columns
        self._model, self._memory, self._pool = model, memory, pool
        self._steps = StepBuilder(model.groups, pool.block_size)
        self._ropes = RopeLengths(ropes)
        self._shadows: dict[Sequence, Shadow] = {}

    def leave(self, seq: Sequence) -> None:
        """A sequence has ended or was preempted; what is computed of it may be found again."""
        shadow = self._shadows.pop(seq, None)
        if shadow is not None:
            self._correct(shadow, seq.tokens)
            self._pool.release(shadow.seq.state)

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
        return self._guess(self._run(list(chunks.values())), list(chunks), drafts)

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
        numbers.tokens[numbers.tokens >= self._model.vocab_size] = 0  # it has no row for these
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
