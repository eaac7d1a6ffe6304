"""The bounds of benchmarks/server.py, held where the machine allows to measure them.

Throughput is "on one core": events a second of the server's own processor time (it is one
thread), so that neither the reading process nor other work on the machine counts. How fast the
core is counts neither: the bound is for one of so many turns of a bare event loop a second, and
less where the core, in the same minute, makes fewer.
"""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest

from benchmarks.server import latency, throughput

pytestmark = pytest.mark.slow

EVENTS_PER_CORE_S, TURNS_PER_CORE_S = 15_000, 300_000
FAIR = 0.8
P99_MS = 5.0
TRIES = 6


def test_15_000_events_a_second_over_64_streams_on_one_core_and_fair() -> None:
    turns, runs = [bare_turns()], []
    for _ in range(2):
        runs.append(throughput(1500))
        turns.append(bare_turns())
    print(turns, runs)  # noqa: T201
    slower = min(1.0, min(turns) / TURNS_PER_CORE_S)
    assert max(r["events_per_cpu_s"] for r in runs) >= EVENTS_PER_CORE_S * slower
    assert max(r["slowest_over_median"] for r in runs) >= FAIR
    assert all(r["events"] == 64 * 1500 for r in runs)


def test_an_event_is_on_the_socket_within_5_ms_of_what_the_machine_allows() -> None:
    """Noise only ever adds, so a run may be tried again; none of them may lose an event."""
    runs: list[dict[str, float]] = []
    while len(runs) < TRIES and (not runs or _beyond_the_machine(runs[-1]) > P99_MS):
        runs.append(latency(4.0))
    print(runs)  # noqa: T201
    assert _beyond_the_machine(runs[-1]) <= P99_MS


def bare_turns(count: int = 1000, tasks: int = 64) -> float:
    """Events that tasks without a server encode when a queue wakes them, for each second of
    processor time."""
    event = {"id": 1, "event": "token", "data": {"text": " word", "tokens": [1, 2]}}

    async def reads(queue: asyncio.Queue[None]) -> None:
        for _ in range(count):
            msgspec.json.encode(event)
            await queue.get()

    async def main() -> float:
        queues = [asyncio.Queue[None]() for _ in range(tasks)]
        readers = [asyncio.create_task(reads(queue)) for queue in queues]
        start = time.process_time()
        for _ in range(count):
            for queue in queues:
                queue.put_nowait(None)
            await asyncio.sleep(0)
        await asyncio.gather(*readers)
        return count * tasks / (time.process_time() - start)

    return asyncio.run(main())


def _beyond_the_machine(run: dict[str, float]) -> float:
    """ms: the server's p99 less how late an idle process wakes at p99, in the same seconds."""
    return run["to_socket_p99_ms"] - run["machine_late_p99_ms"]
