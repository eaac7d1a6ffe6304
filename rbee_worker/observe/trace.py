"""Traces: a Chrome/Perfetto file of the whole worker, and the phases of one job.

The file is the JSON Array Format of the Trace Event specification: chrome://tracing and
ui.perfetto.dev open it, also when the process died before the closing bracket. Times are
microseconds of this machine's monotonic clock, which the engine process shares.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from rbee_worker.errors import UsageError
from rbee_worker.types import Token

if TYPE_CHECKING:
    from rbee_worker.engine.messages import StepTimes
    from rbee_worker.server.jobs import Job

SERVER, ENGINE = 1, 2  # process rows
STEPS, SAMPLING, SEND = 1, 2, 3  # thread rows
FLUSH_BYTES = 1 << 16


def now_us() -> float:
    """The clock of all traces, microseconds."""
    return time.monotonic() * 1e6


def phases(job: Job) -> list[dict[str, Any]]:
    """The phases of a job that has ended: `{"phase", "start_ms", "ms"}` since it was asked for.

    queue, prefill and decode are the engine's own times; detokenize and send were measured here,
    and overlap decode.
    """
    if job.end is None:
        return []
    usage = job.end.usage
    rows = []
    start = 0.0
    for name, spent in (
        ("queue", usage.queue_ms),
        ("prefill", usage.prefill_ms),
        ("decode", usage.decode_ms),
    ):
        rows.append({"phase": name, "start_ms": round(start, 3), "ms": round(spent, 3)})
        start += spent
    tokens = sum(1 for e in job.log.events if isinstance(e, Token))
    rows.append({"phase": "events", "count": tokens})
    return rows
