"""What metrics count of a job's events."""

from __future__ import annotations

from typing import Any, cast

from rbee_worker.observe.metrics import WorkerMetrics
from rbee_worker.server.jobs import Job
from rbee_worker.session.event_queue import EventQueue
from rbee_worker.types import Request, Token, TokenLogprob


def test_an_event_without_tokens_is_no_time_between_tokens() -> None:
    """With log-probabilities, reasoning and text that one token brings are two events, and the
    token belongs to the second one."""
    scored = TokenLogprob(id=5, logprob=-1.0, top=())
    queue = EventQueue(logprobs=True)
    found: list[Token] = []
    for parts in ([("text", "a")], [("reasoning", "b"), ("text", "c")]):
        queue.push(cast(Any, parts), [5], [scored])
        while (event := queue.take()) is not None:
            assert isinstance(event, Token)
            found.append(event)
    assert [event.ids for event in found] == [(5,), (), (5,)]
    metrics = WorkerMetrics(cast(Any, None))
    job = Job(Request(id="a"))
    for event in found:
        metrics.token(job, event)
    counts = {
        sample.name: sample.value
        for family in (metrics._first.collect(), metrics._between.collect())
        for metric in family
        for sample in metric.samples
        if sample.name.endswith("_count")
    }
    assert counts == {
        "rbee_time_to_first_token_seconds_count": 1,
        "rbee_inter_token_seconds_count": 1,
    }
