"""Which sequence computes how many tokens in the next step. Pure Python, no phases, no torch.

The invariant. A sequence has `tokens` and a `planned` count that follows them; a step spends a
token budget on letting `planned` catch up. Prefill, decode, resuming and recomputing are all the
same thing: a sequence that wants n tokens computed.

    1. Age decides. `running` and `waiting` are both in order of arrival, and every running
       sequence arrived before every waiting one. So admission takes the head of `waiting`,
       preemption takes the tail of `running`, and neither can overtake.
    2. Nobody starves. A sequence that wants one token (decode) is served before those that want
       many, and there are always fewer sequences than budget, so something is left for the oldest
       of the others. Only a younger sequence is ever preempted for an older one: the oldest keeps
       what it has and gets at least one token in every step (where steps overlap, in every step
       that does not have to wait for the result of the one before).
    3. State is reserved for the oldest sequence first, so a sequence that is preempted has not been
       planned in this step. A step plans at most `token_budget` tokens.
    4. A preempted sequence has nothing computed. It keeps its tokens, including its output.
    5. A sequence whose rows see each other (`Sequence.whole`) is computed in the step that admits
       it, or not at all: in one that has room for all of it, or that has nothing else. The same
       holds for a sequence's source (`SeqState.source`), whose rows are counted as tokens. A tile
       of a picture is computed with the first row that needs it (tiles.py).
    6. A small step also computes drafted tokens (lookup.py), after everything else, and no sequence
       is preempted for them. They decide when tokens come, never which.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field

from msgspec import Struct
from msgspec.structs import replace

from rbee_worker.config import DRAFTED_ROWS
from rbee_worker.engine import tiles
from rbee_worker.engine.sequence import Sequence
from rbee_worker.engine.tiles import Look, Shown
from rbee_worker.state.pool import Copy, SeqState, StatePool

Propose = Callable[[Seq[Sequence], int], None]  # see `Proposer.propose`


class Chunk(Struct, frozen=True):
    """`count` tokens of one sequence from position `start`; each of the last `draws` rows draws the
    token after it.

    `draft`: the tokens of its last rows, if these are guesses. The draw after such a row counts
    only if all draws before it in the chunk were the draft's tokens.

    `shown`: its rows that take features of pictures. `state` is the sequence's state at planning.
    If the sequence has another one when the step is over, it was preempted or has ended, and the
    result is dropped.
    """

    seq: Sequence
    state: SeqState
    start: int
    count: int
    draws: int
    draft: tuple[int, ...] = ()
    shown: tuple[Shown, ...] = ()

    @property
    def end(self) -> int:
        """The position after its last row."""
        return self.start + self.count


@dataclass(slots=True)
class Plan:
    """One step: what to compute, which sequences left the queue, and which went back to it.

    copies: (source slot, target slot) of recurrent state, in this order, before anything of the
    step is computed or cleared. sources: sequences whose source is read by the model's encoder
    before anything else of the step. looks: tiles of pictures that are read before its chunks.
    """

    chunks: list[Chunk] = field(default_factory=list)
    copies: list[Copy] = field(default_factory=list)
    sources: list[Sequence] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    tokens: int = 0


class Scheduler:
    """Holds every sequence that has not ended. The engine's loop is its only user."""

    def __init__(
        self,
        pool: StatePool,
        *,
        token_budget: int,
        max_seqs: int,
        propose: Propose | None = None,
    ) -> None:
        """propose: is asked for drafts, where making them is a computation."""
        assert token_budget >= 1
        assert max_seqs >= 1
        self.pool = pool
        self.token_budget = token_budget
        self.max_seqs = max(1, min(max_seqs, token_budget - 1))
        self._propose = propose
        self.running: list[Sequence] = []
        self.waiting: deque[Sequence] = deque()

    @property
    def idle(self) -> bool:
        return not self.running and not self.waiting

    def add(self, seq: Sequence) -> None:
        """Queue a sequence; `arrival` must be greater than that of all before it."""
        assert not self.waiting or self.waiting[-1].arrival < seq.arrival
        self.waiting.append(seq)

    def finish(self, seq: Sequence) -> None:
        """Remove a sequence, wherever it is, and release its state."""
        seq.done = True
        if seq in self.running:
            self.running.remove(seq)
        else:
            self.waiting.remove(seq)
        self.pool.release(seq.state)

    def reset(self, seq: Sequence, salt: bytes | None = None) -> None:
        """Drop what is computed of a running sequence; it keeps its place.

        salt: what its keys depend on from now on (state/pool.py); None: no change.
        """
        self._restart(seq)
        if salt is not None:
            seq.state = self.pool.new(seq.tokens, salt, seq.state.source, seq.state.runs)
        self.pool.attach(seq.state, seq.reuse_limit)

    def suspect(self, seqs: list[Sequence]) -> list[Sequence]:
        """A step of these failed: all running sequences go back to the queue, and these will run
        alone once.

        Returns the sequences that left `running`.
        """
        for seq in seqs:
            seq.solo = True
        back = list(self.running)
        for seq in reversed(back):
            self._requeue(seq)
        return back

    def schedule(self) -> Plan:
        """Plan the next step. An empty plan means that a running step must be committed first."""
        plan = Plan()
        if self.pool.features is not None:
            self.pool.features.begin()
        if self._alone(plan):
            return plan
        shares = self._shares()
        i = 0
        while i < len(self.running):  # preemption shortens the list from its end
            seq = self.running[i]
            if seq in shares and not self._grow(seq, shares[seq], plan):
                break
            i += 1
        if not plan.preempted:
            self._admit(plan)
            self._speculate(plan)
        return plan

    def _shares(self) -> dict[Sequence, int]:
        """Split the budget: one token each for those that want one, the rest oldest first."""
        wants = {seq: self.pool.most(seq.state, seq.wants) for seq in self.running}
        shares = {seq: 1 for seq, n in wants.items() if n == 1}
        left = self.token_budget - len(shares)
        if len(shares) < len(wants):
            for seq, n in wants.items():
                if n > 1 and left:
                    shares[seq] = min(n, left)
                    left -= shares[seq]
        return shares

    def _grow(self, seq: Sequence, n: int, plan: Plan) -> bool:
        """Plan up to n tokens of a running sequence, preempting from the tail. False: none, and
        none of the younger ones."""
        n = self._reach(seq, n, plan)
        if not n:
            return True  # its next tile is for another step
        while not (granted := self.pool.reserve(seq.state, n)):
            victim = self.running[-1]
            if victim is seq and len(self.running) == 1:
                return False  # blocks of a step in flight will come back
            deferred = victim.state.in_flight > 0
            self._requeue(victim)
            plan.preempted.append(victim)
            if victim is seq or deferred:
                return False
        self._plan(seq, granted, plan)
        return True

    def _plan(self, seq: Sequence, n: int, plan: Plan) -> None:
        end = seq.state.planned
        pools = seq.submit.pool is not None
        draws = int(end == len(seq.tokens) + seq.drawing and not pools)
        seq.drawing += draws
        shown: tuple[Shown, ...] = ()
        if self.pool.features is not None and seq.state.runs:
            pictures = seq.submit.pictures
            shown, looks = tiles.show(self.pool.features, seq.state, pictures, end - n, end)
            plan.looks += looks
            plan.tokens += len(looks) * self.pool.features.spec.patches
        plan.chunks.append(Chunk(seq, seq.state, end - n, n, draws, shown=shown))
        plan.copies += self.pool.copies()
        plan.tokens += n
        if seq.state.source and not seq.state.encoded:
            seq.state.encoded = True
            plan.sources.append(seq)
            plan.tokens += seq.state.source

    def _reach(self, seq: Sequence, n: int, plan: Plan) -> int:
        """How many of a sequence's next n positions can be planned, given their pictures."""
        left = self.token_budget - plan.tokens
        if plan.looks:
            n = min(n, max(left, 1))
        if self.pool.features is None or not seq.state.runs:
            return n
        alone = all(chunk.count == 1 for chunk in plan.chunks)
        looks = bool(plan.looks)
        return tiles.reach(self.pool.features, seq.state, n, left=left, looks=looks, alone=alone)

    def _speculate(self, plan: Plan) -> None:
        """Add drafted rows to a small step, in equal shares, the oldest first."""
        room = min(DRAFTED_ROWS - 2 * plan.tokens, self.token_budget - plan.tokens)
        if room <= 0:
            return
        ready = {
            number: chunk.seq
            for number, chunk in enumerate(plan.chunks)
            if chunk.count == 1 and chunk.end == len(chunk.seq.tokens)
        }
        if self._propose is not None and ready:
            self._propose(list(ready.values()), room)
        drafts = {number: draft for number, seq in ready.items() if (draft := seq.draft())}
        for done, (number, draft) in enumerate(drafts.items()):
            chunk, share = plan.chunks[number], -(-room // (len(drafts) - done))
            n = self.pool.widen(chunk.state, min(len(draft), share)) if share else 0
            if n:
                chunk.seq.drawing += n
                plan.chunks[number] = replace(chunk, count=1 + n, draws=1 + n, draft=draft[:n])
                plan.tokens += n
                room -= n
        plan.copies += self.pool.copies()

    def _alone(self, plan: Plan) -> bool:
        """If a suspect can run now, plan only it. True: no other sequence may run."""
        for seq in self.running:
            if seq.solo:
                if seq.wants:
                    self._grow(seq, min(seq.wants, self.token_budget), plan)
                return bool(plan.chunks) or seq.state.in_flight > 0
        if self.waiting and self.waiting[0].solo:
            self._admit(plan)
        return bool(plan.chunks)

    def _admit(self, plan: Plan) -> None:
        """Move the head of the queue to `running` while budget, places and memory allow."""
        while (
            self.waiting
            and len(self.running) < self.max_seqs
            and plan.tokens < self.token_budget
            and not (self.waiting[0].solo and plan.chunks)
        ):
            seq = self.waiting[0]
            left = self.token_budget - plan.tokens
            at_once = seq.state.source + (seq.wants if seq.whole else 0)
            if at_once > left and plan.chunks:
                return
            cached = self.pool.attach(seq.state, seq.reuse_limit)
            others = [s.state for s in self.running]
            granted, n = 0, seq.wants if seq.whole else min(seq.wants, left)
            n = self._reach(seq, n, plan)
            if n and (not others or self.pool.admits(seq.state, others)):
                granted = self.pool.reserve(seq.state, n)
            if not granted or (seq.whole and granted < n):
                self._restart(seq)
                return
            self.running.append(self.waiting.popleft())
            seq.cached = cached
            plan.admitted.append(seq)
            self._plan(seq, granted, plan)
            if seq.solo:
                return

    def _restart(self, seq: Sequence) -> None:
        self.pool.release(seq.state)
        seq.state = seq.state.renewed()
        seq.drawing = 0

    def _requeue(self, seq: Sequence) -> None:
        """Preempt the youngest running sequence: it is older than all that wait."""
        assert seq is self.running[-1]
        self._restart(seq)
        seq.preemptions += 1
        self.waiting.appendleft(self.running.pop())
