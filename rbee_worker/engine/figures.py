"""The engine's counters and gauges, and when they are reported."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.engine.messages import Stats
from rbee_worker.engine.scheduler import Scheduler
from rbee_worker.engine.sequence import Sequence

STATS_EVERY_S = 0.25


@dataclass(slots=True)
class Figures:
    """Counters since the start. step_ms: of the last step; told_s: the time of the last report."""

    tokens_in: int = 0
    tokens_out: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    step_ms: float = 0.0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    told_s: float = 0.0

    def admitted(self, seq: Sequence) -> None:
        """Count a sequence that runs for the first time."""
        self.tokens_in += seq.prompt_len
        self.cached_tokens += seq.cached

    def drew(self, drafted: int, accepted: int) -> None:
        """Count one output token, and by how much its sequence's drafts have grown."""
        self.tokens_out += 1
        self.drafted_tokens += drafted
        self.accepted_tokens += accepted

    def stepped(self, ms: float) -> None:
        """Count a step that took `ms`."""
        self.steps += 1
        self.step_ms = ms

    def due(self, now: float, idle: bool) -> bool:
        """Whether they are to be reported again; if so, they count as reported."""
        if not idle and now - self.told_s < STATS_EVERY_S:
            return False
        self.told_s = now
        return True

    def stats(self, scheduler: Scheduler) -> Stats:
        """Gauges and counters as they are now."""
        usage = scheduler.pool.usage()
        return Stats(
            waiting=len(scheduler.waiting),
            running=len(scheduler.running),
            kv_used_blocks=usage.used,
            kv_cached_blocks=usage.cached,
            kv_total_blocks=usage.total,
            tokens_in=self.tokens_in,
            tokens_out=self.tokens_out,
            cached_tokens=self.cached_tokens,
            preemptions=self.preemptions,
            steps=self.steps,
            step_ms=self.step_ms,
            drafted_tokens=self.drafted_tokens,
            accepted_tokens=self.accepted_tokens,
        )
