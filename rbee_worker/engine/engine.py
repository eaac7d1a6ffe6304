"""The engine: sequences of ids in, ids out, one step at a time, in one thread.

It knows nothing of text, processes or HTTP; only its `Runner` talks to a backend. A step is
launched, then collected. Where the backend computes while the host continues, the next step is
planned and launched before this one is collected; memory that a launched step may still use is
released only in `collect`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from msgspec import Struct

from rbee_worker.constraints.words import Words
from rbee_worker.engine.adapters import Adapters
from rbee_worker.engine.drafting import Drafting
from rbee_worker.engine.figures import Figures
from rbee_worker.engine.grammars import Grammars
from rbee_worker.engine.lookup import why_no_drafts
from rbee_worker.engine.messages import (
    AdapterLoaded,
    AdapterRefused,
    Cancel,
    LoadAdapter,
    Output,
    Stats,
    Submit,
    UnloadAdapter,
)
from rbee_worker.engine.new_sequences import NewSequences
from rbee_worker.engine.outcomes import Outcomes
from rbee_worker.engine.proposer import Proposer
from rbee_worker.engine.recovery import Recovery
from rbee_worker.engine.results import Draw, Results, take_draws
from rbee_worker.engine.rope_length import RopeLengths
from rbee_worker.engine.runner import Launched, Runner
from rbee_worker.engine.scheduler import Plan, Scheduler
from rbee_worker.engine.sequence import Sequence
from rbee_worker.errors import AdapterError, InferenceFailed, as_worker_error
from rbee_worker.model_info import Speculation
from rbee_worker.ops.backend import DeviceGauge
from rbee_worker.sequence_end import StopRecord
from rbee_worker.state.pool import StatePool

NO_ROPES = RopeLengths()


class Pending(Struct, frozen=True):
    """A step that is not collected yet: its plan and what was launched, or why that failed."""

    plan: Plan
    launched: Launched | None = None
    error: Exception | None = None


class Engine:
    """Runs every live sequence. `context`: the longest sequence that model and pool both allow."""

    def __init__(
        self,
        runner: Runner,
        pool: StatePool,
        *,
        token_budget: int,
        max_seqs: int,
        context: int,
        kv_cache: bool = True,
        speculate: Speculation = "off",
        drafts: Proposer | None = None,
        ropes: RopeLengths = NO_ROPES,
        adapters: Adapters | None = None,
        start: int | None = None,
        gauge: DeviceGauge | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """ropes: how rotary scaling depends on a sequence's length. kv_cache=False computes every
        sequence anew for each of its tokens. speculate: how tokens are drafted, as
        `Settings.drafts`; see `why_no_drafts`. drafts: what computes drafts, if anything does.
        adapters: None if the model takes none. start: see `Decoder.start`. gauge: of the device, if
        the backend has one."""
        self.runner = runner
        self.pool = pool
        why = why_no_drafts(pool.groups, kv_cache, speculate)
        self.speculate = speculate if why is None else "off"
        drafts = drafts if self.speculate != "off" else None
        self._drafting = Drafting(drafts, lookup=self.speculate == "ngram")
        self.scheduler = Scheduler(
            pool,
            token_budget=token_budget,
            max_seqs=max_seqs,
            propose=None if drafts is None else self._drafting.propose,
        )
        self.context = min(context, pool.longest)
        if drafts is not None:
            drafts.draws_with(runner.sampler)
        self.adapters = adapters
        self._new = NewSequences(
            pool,
            context=self.context,
            kv_cache=kv_cache,
            ropes=ropes,
            adapters=adapters,
            start=start,
        )
        self._clock = clock
        self._live: dict[str, Sequence] = {}
        self._pending: Pending | None = None  # a step that runs while the next one is planned
        self._arrivals = 0
        self._figures = Figures(gauge)
        self._grammars = Grammars()
        self._outcomes = Outcomes(
            self.scheduler,
            self._new,
            self._figures,
            kv_cache=kv_cache,
            remove=self._remove,
            clock=self._now,
        )
        self._recovery = Recovery(self.scheduler, pool, self._outcomes, self._leave)
        # Told, where it is set, what must be known even if the step about to run ends the process:
        # which sequences are in it.
        self.tell: Callable[[list[Output]], None] | None = None

    # ---- commands

    @property
    def idle(self) -> bool:
        """Whether there is nothing to compute, to wait for or to report."""
        done = self._pending is None and not self._outcomes.out
        return done and self.scheduler.idle and self._grammars.idle

    def learn(self, words: Words) -> None:
        """The vocabulary as text; sequences with a grammar need it."""
        self._grammars.learn(words)

    def submit(self, m: Submit) -> None:
        """Queue a sequence. One that is already live is left alone."""
        if m.seq in self._live:
            return
        seq = self._live[m.seq] = self.sequence(m)
        if m.grammar:
            self._grammars.begin(seq)
        else:
            self._enter(seq)

    def load_adapter(self, m: LoadAdapter) -> None:
        """Load an adapter, between two steps; the answer is among the next output."""
        try:
            if self.adapters is None:
                raise AdapterError("this engine takes no adapters.", fix="give --lora-slots.")
            self._outcomes.out.append(AdapterLoaded(info=self.adapters.load(m.spec)))
        except Exception as error:
            known = as_worker_error(error)
            name, message = m.spec.name, str(known)
            self._outcomes.out.append(AdapterRefused(name=name, code=known.code, message=message))

    def unload_adapter(self, m: UnloadAdapter) -> None:
        """Unload an adapter. Sequences that still use it are given up: their caller has said that
        there are none."""
        if self.adapters is None:
            return
        self.settle()
        for seq in [s for s in self._live.values() if s.submit.adapter == m.key]:
            self._outcomes.give_up(seq, InferenceFailed("its adapter was unloaded."))
        self.adapters.unload(m.key)

    def _enter(self, seq: Sequence) -> None:
        """Put a sequence into the scheduler's queue, if it is not over already."""
        self._arrivals += 1
        seq.arrival = self._arrivals
        self.scheduler.add(seq)
        refusal = self._new.refusal(seq)
        if refusal:
            self._outcomes.give_up(seq, InferenceFailed(refusal))
            return
        if seq.scores is not None and not seq.scoring:  # one token alone
            self._outcomes.tell_scores(seq, 0)
        ended = seq.ended() if seq.n_output else seq.rules.length(0)
        if ended is not None and not seq.scoring and seq.submit.pool is None:
            self._outcomes.finish(seq, ended)

    def _enter_compiled(self) -> None:
        """Let the sequences begin whose grammars are compiled by now."""
        if self._grammars.idle:
            return
        patient = self.scheduler.idle and self._pending is None and not self._outcomes.out
        for seq, error in self._grammars.ready(patient=patient):
            self._enter(seq)
            if error is not None and not seq.done:
                self._outcomes.give_up(seq, error)

    def sequence(self, m: Submit) -> Sequence:
        """A new sequence, for which nothing is planned yet."""
        return self._new.sequence(m, self._arrivals, self._clock(), self._drafting.maker)

    def _remove(self, seq: Sequence) -> None:
        """A sequence has ended."""
        if self._grammars.drop(seq):
            seq.done = True
        else:
            self.scheduler.finish(seq)
        self._leave(seq)
        del self._live[seq.id]

    def _leave(self, seq: Sequence) -> None:
        """A sequence does not run any more, or not for now."""
        self.runner.leave(seq)
        self._drafting.leave(seq)

    def cancel(self, m: Cancel) -> None:
        """End a sequence wherever it is. An unknown one has already ended: no effect."""
        seq = self._live.get(m.seq)
        if seq is not None:
            self._outcomes.finish(seq, StopRecord(rule=m.rule, at=seq.n_output))

    # ---- the step

    def step(self) -> list[Output]:
        """Run one step; returns its output. Where steps overlap, the step is only launched, and the
        output is that of the step before."""
        self._enter_compiled()
        started = self._clock()
        plan = self.scheduler.schedule()
        pending = self.launch(plan)
        self.settle()
        if self.runner.overlaps and pending.launched is not None:
            self._pending = pending
        else:
            self.collect(pending)
        return self._report(plan, started)

    def settle(self) -> None:
        """Collect the step that still runs, if there is one."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self.collect(pending)

    def launch(self, plan: Plan) -> Pending:
        """Pass a plan to the runner. An exception is stored in the result, not raised."""
        for seq in plan.preempted:
            self._leave(seq)
            self._outcomes.preempted(seq)
        for seq in plan.admitted:
            self._outcomes.admitted(seq)
        if (plan.admitted or plan.preempted) and self.tell is not None:
            self.tell(self._outcomes.taken())
        if not plan.chunks:
            return Pending(plan)
        try:
            for seq in plan.admitted:
                self.runner.enter(seq)
            return Pending(plan, self.runner.launch(plan))
        except Exception as error:
            return Pending(plan, error=error)

    def collect(self, pending: Pending) -> None:
        """Take a step's results: commit its state, append its tokens, end sequences that are done.

        The result of a sequence that was preempted or ended meanwhile is dropped.
        """
        plan, error = pending.plan, pending.error
        results = Results()
        if pending.launched is not None:
            try:
                results = self.runner.collect(pending.launched)
            except Exception as late:
                error = late
        if error is not None:
            self._recovery.failed(plan, error)
        drawn: dict[Sequence, list[Draw]] = {chunk.seq: [] for chunk in plan.chunks}
        for draw in results.draws:
            drawn[draw.chunk.seq].append(draw)
        taken: dict[Sequence, list[Draw]] = {}  # of those that are still there
        for chunk in plan.chunks:
            seq, rejected = chunk.seq, 0
            if seq.state is chunk.state and not seq.done:
                seq.drawing -= chunk.draws
                seq.solo = False
                taken[seq] = take_draws(seq, drawn[seq])
                rejected = max(chunk.draws - max(len(taken[seq]), 1), 0)
            self.pool.commit(chunk.state, chunk.count, rejected)
            new = taken.get(seq)
            # Where steps overlap, masks are made while the next step computes.
            if new and new[-1].error is None and not self.runner.overlaps:
                new += [Draw(chunk, token, None) for token in seq.forced()]
        if results.hidden is not None:
            self._drafting.follow(plan.chunks, results.hidden)
        for part in results.scores:
            seq = part.chunk.seq
            if seq in taken:
                self._outcomes.scored(seq, part.logprobs, drew=bool(taken[seq]))
        for seq, new in taken.items():
            if new and not seq.done:
                self._outcomes.took(seq, new)
        for vector in results.vectors:
            if vector.chunk.seq in taken:
                self._outcomes.pooled(vector.chunk.seq, vector)

    def _report(self, plan: Plan, started: float) -> list[Output]:
        """All output since the last step, with fresh figures if they are due."""
        now = self._clock()
        if plan.chunks:
            self._figures.stepped((now - started) * 1e3, plan)
        self._drafting.stepped(plan, now - started)
        self._outcomes.out += self._drafting.news()
        if self._figures.due(now, self.scheduler.idle):
            self._outcomes.out.append(self.stats())
            self._figures.told()
        return self._outcomes.taken() + self.runner.times()

    def _now(self) -> float:
        """The time of a clock that may be exchanged later."""
        return self._clock()

    def stats(self) -> Stats:
        """Gauges and counters as they are now."""
        return self._figures.stats(self.scheduler)
