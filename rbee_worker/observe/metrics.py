"""Prometheus metrics of one worker: counters updated by events, gauges read on each scrape.

This module knows jobs and the engine's `Stats`; prometheus-client writes the text format.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from typing import get_args

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from rbee_worker.model_info import Loss, ModelInfo, Speculation, WorkerState
from rbee_worker.observe.subjects import (
    EngineFigures,
    HolderFigures,
    JobRecord,
    JournalFigures,
    TokenFigures,
    WorkerFigures,
)
from rbee_worker.types import Token

_SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
_LONG = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class WorkerMetrics:
    """Counters and histograms; `text` is the answer to GET /metrics."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, worker: WorkerFigures) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(Gauges(worker))

        def histogram(name: str, words: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"rbee_{name}", words, buckets=buckets, registry=self.registry)

        def counter(name: str, words: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(f"rbee_{name}", words, labels, registry=self.registry)

        self._first = histogram("time_to_first_token_seconds", "from request to token", _LONG)
        self._between = histogram("inter_token_seconds", "between tokens of an answer", _SHORT)
        self._whole = histogram("request_seconds", "from request to end", _LONG)
        self._queue = histogram("queue_seconds", "before the first computation", _LONG)
        self._requests = counter("requests", "requests admitted")
        self._refused = counter("requests_refused", "requests refused", ("code",))
        self._stops = counter("stops", "ended requests by stop rule", ("rule",))
        self._sent = counter("stream_events_sent", "events written to streams")
        self._frames = counter("speech_frames", "frames of speech made")

    def text(self) -> bytes:
        return generate_latest(self.registry)

    def admitted(self, job: JobRecord) -> None:
        self._requests.inc()

    def refused(self, code: str) -> None:
        self._refused.labels(code).inc()

    def sent(self, events: int) -> None:
        self._sent.inc(events)

    def spoke(self, frames: int) -> None:
        self._frames.inc(frames)

    def token(self, job: JobRecord, event: Token) -> None:
        """Count new tokens of `job`. An event without any has a part of the answer whose token
        comes in the next one."""
        if not event.ids:
            return
        now = time.monotonic()
        if job.last_token is None:
            self._first.observe(now - job.born)
        else:
            self._between.observe((now - job.last_token) / len(event.ids))
        job.last_token = now

    def finished(self, job: JobRecord) -> None:
        self._whole.observe(time.monotonic() - job.born)
        if job.end is not None:
            self._stops.labels(job.end.stop.rule).inc()
            self._queue.observe(job.end.usage.queue_ms / 1e3)
        else:
            self._stops.labels("ERROR").inc()


class Gauges(Collector):
    """The engine's latest figures and the server's own counts, read on each scrape."""

    def __init__(self, worker: WorkerFigures) -> None:
        self._worker = worker

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        worker = self._worker
        yield _gauge("ready", "1 when the worker takes work", float(worker.state == "ready"))
        states = GaugeMetricFamily("rbee_state", "1 for the worker's state", labels=["state"])
        for state in get_args(WorkerState):
            states.add_metric([state], float(worker.state == state))
        yield states
        yield _gauge("jobs_live", "jobs that have not ended", len(worker.jobs.live()))
        yield _gauge("jobs_kept", "jobs that have ended and can be found", worker.jobs.finished)
        kept_bytes = worker.jobs.finished_bytes
        yield _gauge("jobs_kept_bytes", "the memory that these take, about", kept_bytes)
        yield _gauge("uptime_seconds", "since the process started", worker.age())
        yield _count("engine_restarts", "engine processes lost and replaced", worker.restarts)
        losses = CounterMetricFamily(
            "rbee_engines_lost", "engine processes lost, by what ended them", labels=["reason"]
        )
        for loss in get_args(Loss):
            losses.add_metric([loss], worker.losses.get(loss, 0))
        yield losses
        yield from _of_tokens(worker.tokens)
        if worker.journal is not None:
            yield from _of_journal(worker.journal)
        info = worker.model
        if info is not None:
            yield _gauge("weight_bytes", "weights as held", info.weight_bytes)
            yield _gauge("kv_bytes", "the KV pool", info.kv_bytes)
            drafts = GaugeMetricFamily(
                "rbee_speculation", "1 for how tokens are drafted now", labels=["how"]
            )
            for how in get_args(Speculation):
                drafts.add_metric([how], float(info.speculate == how))
            yield drafts
            loads = GaugeMetricFamily(
                "rbee_load_seconds", "phases of loading the model", labels=["phase"]
            )
            for phase, seconds in info.load_s.items():
                loads.add_metric([phase], seconds)
            yield loads
        stats = worker.stats
        if stats is None:
            return
        total = max(1, stats.kv_total_blocks)
        yield _gauge("queue_depth", "requests waiting", stats.waiting)
        yield _gauge("running", "sequences being computed", stats.running)
        yield _gauge("kv_usage", "share of KV blocks held, 0..1", stats.kv_used_blocks / total)
        yield _gauge("kv_blocks_used", "blocks held by live sequences", stats.kv_used_blocks)
        yield _gauge("kv_blocks_cached", "free blocks with a known prefix", stats.kv_cached_blocks)
        yield _gauge("kv_blocks_total", "blocks of the pool", stats.kv_total_blocks)
        yield _gauge("step_seconds", "the last engine step", stats.step_ms / 1e3)
        yield _count("tokens_in", "prompt tokens", stats.tokens_in)
        yield _count("tokens_out", "generated tokens", stats.tokens_out)
        yield _count("prefix_cache_hit_tokens", "prompt tokens not computed", stats.cached_tokens)
        yield _count("preemptions", "sequences paused to make room", stats.preemptions)
        yield _count(
            "drafted_tokens", "tokens guessed before they were drawn", stats.drafted_tokens
        )
        yield _count("accepted_tokens", "drafted tokens that were drawn", stats.accepted_tokens)
        yield _count("engine_steps", "engine steps", stats.steps)
        yield _count("engine_busy_seconds", "time in steps", stats.busy_s)
        working = stats.running + stats.waiting > 0  # otherwise the last shares are of the past
        utilisation = stats.utilisation if working else 0.0
        yield _gauge("engine_utilisation", "share of the last time in steps, 0..1", utilisation)
        if stats.device_total_bytes:
            yield from _device(stats, info)


def _device(stats: EngineFigures, info: ModelInfo | None) -> Iterator[Metric]:
    """A GPU's memory by use, and how near decoding comes to the time of reading weights and
    cache."""
    planned = 0 if info is None else info.weight_bytes + info.kv_bytes
    workspace = max(stats.device_own_bytes - planned, 0)
    yield _gauge("gpu_memory_total_bytes", "of the GPU", stats.device_total_bytes)
    yield _gauge("gpu_memory_used_bytes", "by all processes", stats.device_used_bytes)
    yield _gauge("gpu_memory_own_bytes", "held by this worker", stats.device_own_bytes)
    yield _gauge("gpu_workspace_bytes", "held beside weights and cache", workspace)
    yield _gauge(
        "decode_floor_share",
        "time of reading weights and cache over time of decoding steps, 0..1",
        stats.floor_share,
    )


def _of_tokens(tokens: TokenFigures) -> Iterator[Metric]:
    """By the holder's name: as many as the file of tokens has."""
    yield _count("unauthorized", "requests without a valid token", tokens.unauthorized)
    counts: dict[str, tuple[str, Callable[[HolderFigures], int]]] = {
        "token_requests": ("requests that used the engine", lambda h: h.requests),
        "token_prompt_tokens": ("tokens of prompts", lambda h: h.prompt_tokens),
        "token_output_tokens": ("generated tokens", lambda h: h.output_tokens),
    }
    for name, (words, count) in counts.items():
        family = CounterMetricFamily(f"rbee_{name}", words, labels=["token"])
        for holder in tokens.holders:
            family.add_metric([holder.name], count(holder))
        yield family
    live = GaugeMetricFamily("rbee_token_live", "requests at work", labels=["token"])
    over = CounterMetricFamily(
        "rbee_token_refused", "refused by a limit of the token", labels=["token", "limit"]
    )
    for holder in tokens.holders:
        live.add_metric([holder.name], holder.live)
        for limit, times in holder.refused.items():
            over.add_metric([holder.name, limit], times)
    yield live
    yield over


def _of_journal(journal: JournalFigures) -> Iterator[Metric]:
    working = float(journal.state == "working")
    yield _gauge("journal_working", "1 while jobs outlive the worker", working)
    yield _gauge("journal_bytes", "what its jobs and events take", journal.used_bytes)
    yield _count("journal_commits", "transactions", journal.commits)
    yield _count("journal_failures", "attempts to write that failed", journal.failures)
    yield _count("journal_removed_jobs", "removed because it was full", journal.tidied)
    yield _count("journal_resumed_jobs", "begun by an earlier process", journal.resumed)


def _gauge(name: str, words: str, value: float) -> Metric:
    return GaugeMetricFamily(f"rbee_{name}", words, value=value)


def _count(name: str, words: str, value: float) -> Metric:
    return CounterMetricFamily(f"rbee_{name}", words, value=value)
