"""`Recovery`: what becomes of the sequences of a step that failed."""

from __future__ import annotations

import logging
from collections.abc import Callable

from rbee_worker.engine.outcomes import Outcomes
from rbee_worker.engine.scheduler import Plan, Scheduler
from rbee_worker.engine.sequence import Sequence
from rbee_worker.errors import device_lost, is_out_of_memory
from rbee_worker.state.pool import StatePool

STRIKES = 3  # failed steps of several sequences before the youngest of them is given up

log = logging.getLogger(__name__)


class Recovery:
    """Finds the sequence that makes steps fail, and gives it up."""

    def __init__(
        self,
        scheduler: Scheduler,
        pool: StatePool,
        outcomes: Outcomes,
        leave: Callable[[Sequence], None],
    ) -> None:
        """leave: called with a sequence that does not run for now."""
        self._scheduler = scheduler
        self._pool = pool
        self._outcomes = outcomes
        self._leave = leave

    def failed(self, plan: Plan, error: Exception) -> None:
        """A step failed. If it had one sequence, that one is given up. If it had several (some may
        have ended meanwhile), each runs alone once, and the faulty one fails there. If they fail
        only together, the youngest is given up in the end.

        Raises DeviceLost where no step can succeed in this process any more: another engine then
        continues all sequences, if the device still works.
        """
        if self._pool.features is not None:
            self._pool.features.forget()
        lost = device_lost(error)
        if lost is not None:
            raise lost from error
        trace = None if is_out_of_memory(error) else error  # where it was makes no difference
        log.error("a step of %d sequences failed: %s", len(plan.chunks), error, exc_info=trace)
        seqs = [c.seq for c in plan.chunks if c.seq.state is c.state and not c.seq.done]
        if not seqs:
            return
        for seq in self._scheduler.suspect(seqs):
            self._leave(seq)
        for seq in seqs:
            seq.strikes += 1
        if len(plan.chunks) == 1 or max(s.strikes for s in seqs) % STRIKES == 0:
            self._outcomes.give_up(max(seqs, key=lambda s: s.arrival), error)
