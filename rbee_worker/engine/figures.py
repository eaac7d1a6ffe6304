"""The engine's counters and gauges, and when they are reported."""

from __future__ import annotations

from dataclasses import dataclass

from rbee_worker.engine.messages import Stats
from rbee_worker.engine.scheduler import Plan, Scheduler
from rbee_worker.engine.sequence import Sequence
from rbee_worker.ops.backend import DeviceGauge

STATS_EVERY_S = 0.25


@dataclass(slots=True)
class Figures:
    """Counters since the start. step_ms: of the last step; told_s: the time of the last report.
    busy_s: time in steps; decoding_s, floor_s: time of decoding steps since the last report, and
    what reading their weights and cache takes (`DeviceGauge.floor_s`); busy_told_s: busy_s then."""

    gauge: DeviceGauge | None = None
    tokens_in: int = 0
    tokens_out: int = 0
    cached_tokens: int = 0
    preemptions: int = 0
    steps: int = 0
    step_ms: float = 0.0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    told_s: float = 0.0
    busy_s: float = 0.0
    busy_told_s: float = 0.0
    before_s: float = 0.0
    decoding_s: float = 0.0
    floor_s: float = 0.0

    def admitted(self, seq: Sequence) -> None:
        """Count a sequence that runs for the first time, in this engine or one before it."""
        if seq.submit.counted:
            return
        self.tokens_in += seq.prompt_len
        self.cached_tokens += min(seq.cached, seq.prompt_len)  # the rest was drawn before

    def drew(self, drafted: int, accepted: int) -> None:
        """Count one output token, and by how much its sequence's drafts have grown."""
        self.tokens_out += 1
        self.drafted_tokens += drafted
        self.accepted_tokens += accepted

    def stepped(self, ms: float, plan: Plan) -> None:
        """Count a step that took `ms`."""
        self.steps += 1
        self.step_ms = ms
        self.busy_s += ms / 1e3
        if self.gauge is not None and all(chunk.count == 1 for chunk in plan.chunks):
            self.decoding_s += ms / 1e3
            self.floor_s += self.gauge.floor_s(chunk.end for chunk in plan.chunks)

    def due(self, now: float, idle: bool) -> bool:
        """Whether they are to be reported again; if so, they count as reported."""
        if not idle and now - self.told_s < STATS_EVERY_S:
            return False
        self.before_s, self.told_s = self.told_s, now
        return True

    def told(self) -> None:
        """They were reported: shares of time are counted anew."""
        self.busy_told_s = self.busy_s
        self.decoding_s = self.floor_s = 0.0

    def stats(self, scheduler: Scheduler) -> Stats:
        """Gauges and counters as they are now."""
        usage = scheduler.pool.usage()
        memory = None if self.gauge is None else self.gauge.memory()
        wall_s = self.told_s - self.before_s if self.before_s else 0.0
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
            busy_s=self.busy_s,
            utilisation=min((self.busy_s - self.busy_told_s) / wall_s, 1.0) if wall_s else 0.0,
            floor_share=self.floor_s / self.decoding_s if self.decoding_s else 0.0,
            device_used_bytes=0 if memory is None else memory.used,
            device_own_bytes=0 if memory is None else memory.own,
            device_total_bytes=0 if memory is None else memory.total,
        )
